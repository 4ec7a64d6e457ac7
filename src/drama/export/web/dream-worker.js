// The world model, in a worker so that the page stays responsive: two ONNX graphs on one CPU thread.

import * as ort from "./ort/ort.wasm.bundle.min.mjs";
import { LATENTS, Random } from "./random.js";

const FORMAT = 1;
const ARRAYS = { float32: Float32Array, uint8: Uint8Array, bool: Uint8Array, int64: BigInt64Array };

ort.env.wasm.numThreads = 1; // more need headers that static hosts do not send
ort.env.wasm.wasmPaths = { wasm: new URL("ort/ort-wasm-simd-threaded.wasm", import.meta.url).href };
ort.env.logLevel = "error";

let manifest, encoder, stepper, observations, random, state;

const handlers = {
  async load() {
    manifest = await (await get("dream.json")).json();
    if (manifest.format !== FORMAT) {
      throw new Error(`This page reads models of format ${FORMAT}, not ${manifest.format}.`);
    }
    const [encode, step, starts] = await Promise.all(
      ["encode.onnx", "step.onnx", "starts.bin"].map(async (name) => (await get(name)).arrayBuffer()));
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
    encoder = await ort.InferenceSession.create(encode, options);
    stepper = await ort.InferenceSession.create(step, options);
    observations = cut(starts);
    return { manifest, observations };
  },

  /** Read the observations of a start with the recorded actions between; then the dream begins. */
  async start({ start, seed }) {
    random = new Random(seed, LATENTS);
    const frames = observations[start], actions = manifest.starts[start].actions;
    let moment;
    for (let i = 0; i < frames.length; i++) {
      const observed = await encode(frames[i]);
      if (i === 0) state = zeros();
      moment = await run(i === 0 ? 0 : actions[i - 1], 1, observed, i === 0);
    }
    return moment;
  },

  /** One dreamed step. */
  async step({ action, temperature }) {
    return run(action, temperature, null, false);
  },
};

async function get(name) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name} could not be loaded (${response.status}).`);
  return response;
}

/** Observations of each start, from the file that holds them one after another. */
function cut(buffer) {
  const Kind = ARRAYS[manifest.observation.dtype];
  const size = manifest.observation.shape.reduce((a, b) => a * b, 1);
  let offset = 0;
  return manifest.starts.map((start) => Array.from({ length: start.observations }, () => {
    const frame = new Kind(buffer, offset, size);
    offset += frame.byteLength;
    return frame;
  }));
}

function numbers() {
  const variables = manifest.latent.variables;
  return new ort.Tensor("float32", random.fill(new Float32Array(variables)), [1, variables, 1]);
}

async function encode(frame) {
  const { dtype, shape } = manifest.observation;
  const obs = new ort.Tensor(dtype, frame, [1, ...shape]);
  return (await encoder.run({ obs, uniform: numbers() })).stoch;
}

function zeros() {
  return Object.fromEntries(manifest.state.map(({ name, shape, dtype }) => {
    const size = shape.reduce((a, b) => a * b, 1);
    return [name, new ort.Tensor(dtype, new ARRAYS[dtype](size), shape)];
  }));
}

async function run(action, temperature, observed, isFirst) {
  const { variables, classes } = manifest.latent;
  const width = variables * classes;
  const uniform = observed === null
    ? numbers() : new ort.Tensor("float32", new Float32Array(variables), [1, variables, 1]);
  const began = performance.now();
  const found = await stepper.run({
    ...state,
    action: new ort.Tensor("int64", BigInt64Array.of(BigInt(action)), [1]),
    uniform,
    temperature: new ort.Tensor("float32", Float32Array.of(temperature), [1]),
    observed: observed ?? new ort.Tensor("float32", new Float32Array(width), [1, width]),
    observe: new ort.Tensor("bool", Uint8Array.of(observed === null ? 0 : 1), [1]),
    is_first: new ort.Tensor("bool", Uint8Array.of(isFirst ? 1 : 0), [1]),
  });
  const milliseconds = performance.now() - began;
  state = Object.fromEntries(manifest.state.map(({ name }) => [name, found[`next_${name}`]]));
  const stoch = state["state.stoch"].data;
  const latent = Uint16Array.from({ length: variables }, (_, k) => {
    for (let c = 0; c < classes; c++) if (stoch[k * classes + c] > 0.5) return c;
    return 0;
  });
  return {
    obs: found.obs.data.slice(), policy: found.policy.data.slice(), latent, milliseconds,
    reward: found.reward.data[0], end: found.termination.data[0], value: found.value.data[0],
  };
}

// One request at a time: the state of a step is the result of the one before.
let queue = Promise.resolve();
onmessage = ({ data: { id, name, argument } }) => {
  queue = queue.then(async () => {
    try {
      postMessage({ id, result: await handlers[name](argument) });
    } catch (error) {
      postMessage({ id, error: String(error.message ?? error) });
    }
  });
};
