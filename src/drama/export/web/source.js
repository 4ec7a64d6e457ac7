// Where moments of a dream come from. Another source, such as a server with the real game, has the
// same three methods:
//
//   load()                         -> { manifest, observations }
//   start({ start, seed })         -> Moment    the moment at which the dream begins
//   step({ action, temperature })  -> Moment    the moment after an action
//
// A Moment is { obs, reward, end, value, policy, latent, milliseconds }: the observation (typed array
// in the manifest's shape), predicted reward and probability of the end of the action before, value
// and action probabilities from here on, the class of each latent variable, and the computing time.

/** The model in this browser. */
export class LocalDream {
  constructor() {
    this.worker = new Worker(new URL("dream-worker.js", import.meta.url), { type: "module" });
    this.waiting = new Map();
    this.count = 0;
    this.worker.onmessage = ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    };
    this.worker.onerror = (event) => {
      const error = new Error(event.message || "the model's worker could not be loaded");
      for (const { reject } of this.waiting.values()) reject(error);
      this.waiting.clear();
    };
  }

  load() { return this.request("load"); }
  start(argument) { return this.request("start", argument); }
  step(argument) { return this.request("step", argument); }

  request(name, argument) {
    return new Promise((resolve, reject) => {
      const id = this.count++;
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, name, argument });
    });
  }
}
