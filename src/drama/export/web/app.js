// The page: who plays, at which pace, and what is shown.

import { Input } from "./input.js";
import { colour, drawLatent, drawObservation } from "./picture.js";
import { actionColour, plotPolicy, plotScalar } from "./plots.js";
import { END, POLICY, Random } from "./random.js";
import { Recorder } from "./record.js";
import { LocalDream } from "./source.js";

const SPEEDS = [0.25, 0.5, 0.75, 1, 1.5, 2, Infinity];
const KEPT = 2000; // moments kept for the plots
const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const number = (name, otherwise) => {
  const value = Number(query.get(name) ?? otherwise);
  return Number.isInteger(value) && value >= 0 ? value : otherwise;
};

class Player {
  constructor(source, manifest, observations) {
    Object.assign(this, { source, manifest, observations });
    this.start = Math.min(number("start", 0), manifest.starts.length - 1);
    this.by = query.get("by") === "human" ? "human" : "agent";
    this.playing = !(query.has("paused") || matchMedia("(prefers-reduced-motion: reduce)").matches);
    this.moments = [];
    this.latencies = []; // from key to frame, in ms
    this.busy = false;
    this.pressed = null; // when the player pressed something that no frame shows yet
    this.tapped = null; // an action pressed since the last step, even if it is released already
    this.wanted = []; // actions of single steps
    this.due = 0;
    this.input = new Input(manifest.actions.names, manifest.actions.idle, (action, time) =>
      this.press(action, time));
    this.recorder = new Recorder($("frame"), "dream");
  }

  get seed() { return Number($("seed").value) >>> 0; }
  get temperature() { return Number($("temperature").value); }
  get speed() { return SPEEDS[Number($("speed").value)]; }
  get now() { return this.moments.at(-1); }

  /** Begin again at the chosen start frame, or after an end at the next one, with other numbers. */
  async restart(next = false) {
    this.wanted = [];
    this.episode = next ? this.episode + 1 : 0;
    if (next) this.chooseStart((this.start + 1) % this.manifest.starts.length);
    const seed = (this.seed + this.episode) >>> 0;
    await this.exclusive(async () => {
      this.ends = new Random(seed, END);
      this.choices = new Random(seed, POLICY);
      this.ended = false;
      this.steps = 0;
      this.input.last = this.manifest.actions.idle ?? 0;
      const moment = await this.source.start({ start: this.start, seed });
      this.moments.push({ ...moment, by: this.by, first: true });
      this.show();
      say(this.playing ? `${this.by === "human" ? "You play" : "The agent plays"}.` : "Paused. A key or a button takes one step.");
    });
  }

  /** Run one request to the model at a time. */
  async exclusive(work) {
    while (this.busy) await this.current;
    this.busy = true;
    this.current = work().catch(fail).finally(() => { this.busy = false; });
    await this.current;
  }

  press(action, time) {
    this.pressed ??= time;
    this.tapped = action;
    if (this.by !== "human") this.control("human");
    if (!this.playing) this.wanted.push(action);
  }

  /** The agent's action at this moment. */
  choose() {
    const { policy } = this.now;
    if ($("greedy").value === "greedy") return policy.indexOf(Math.max(...policy));
    let left = this.choices.next() * policy.reduce((a, b) => a + b, 0);
    return Math.max(0, policy.findIndex((p) => (left -= p) < 0));
  }

  async step(given) {
    if (this.ended) return this.restart(true);
    await this.exclusive(async () => {
      const { by, pressed, tapped } = this;
      this.pressed = this.tapped = null;
      const action = given ?? (by === "human" ? tapped ?? this.input.action() : this.choose());
      const moment = await this.source.step({ action, temperature: this.temperature });
      // One number a step, whether or not the end is sampled.
      const over = moment.end > this.ends.next();
      this.steps++;
      this.moments.push({ ...moment, by, action });
      if (this.moments.length > KEPT) this.moments.splice(0, KEPT / 2);
      this.show();
      if (pressed !== null && by === "human") this.latencies.push(performance.now() - pressed);
      if (over && $("at-end").value !== "continue") this.end();
    });
  }

  end() {
    this.ended = true;
    this.wanted = [];
    say(`The model predicts the end, after ${this.steps} step${this.steps === 1 ? "" : "s"}.`);
    if ($("at-end").value === "pause") this.pause(true);
    else this.due = performance.now() + 900;
  }

  /** Called before every repaint of the screen. */
  async tick(time) {
    if (this.input.poll()) this.press(this.input.action(), time);
    if (!this.busy && this.wanted.length) return this.step(this.wanted.shift());
    if (this.busy || !this.playing || time < this.due) return;
    const pace = 1000 / (this.manifest.steps_per_second * this.speed);
    this.due = Math.max(this.due + pace, time - pace);
    if (this.speed !== Infinity) return this.step();
    const until = time + 12; // as many steps as one repaint has time for
    do await this.step(); while (performance.now() < until && this.playing && !this.ended);
  }

  pause(paused = this.playing) {
    this.playing = !paused;
    this.due = performance.now();
    $("pause").querySelector("span").textContent = paused ? "Play" : "Pause";
    $("pause").querySelector("use").setAttribute("href", `icon.svg#${paused ? "play" : "pause"}`);
    document.body.classList.toggle("paused", paused);
    if (!this.ended) say(paused ? "Paused. A key or a button takes one step." : `${this.by === "human" ? "You play" : "The agent plays"}.`);
  }

  control(by) {
    this.by = by;
    for (const name of ["human", "agent"]) {
      $(name).setAttribute("aria-checked", String(name === by));
      $(name).tabIndex = name === by ? 0 : -1;
    }
    $("screen").dataset.by = by;
    $("greedy").disabled = by !== "agent";
    if (this.now) say(by === "human" ? "You play." : "The agent plays.");
  }

  show() {
    const { now, manifest } = this, before = this.moments.at(-2);
    drawObservation($("frame"), now.obs, manifest.observation, this.moments.slice(-120, -1).map((m) => m.obs));
    drawLatent($("latent"), now.latent, manifest.latent.classes, now.first ? null : before?.latent);
    plotScalar($("reward-plot"), this.moments, "reward", null);
    plotScalar($("value-plot"), this.moments, "value", null);
    plotScalar($("end-plot"), this.moments, "end", [-0.02, 1.02]);
    plotPolicy($("policy-plot"), this.moments);
    $("reward").textContent = now.reward.toFixed(2);
    $("value").textContent = now.value.toFixed(2);
    $("end").textContent = `${(100 * now.end).toFixed(1)} %`;
    const name = (action) => manifest.actions.names[action]?.toLowerCase() ?? "–";
    $("chosen").textContent = now.action === undefined ? "–" : name(now.action);
    now.policy.forEach((p, i) => $("legend").children[i]?.style.setProperty("--p", p.toFixed(3)));
    for (const button of $("pad").children) {
      button.classList.toggle("on", Number(button.dataset.action) === now.action);
    }
    $("step-count").textContent = `step ${this.steps}`;
    if (this.steps % 15 === 0) {
      $("frame").ariaLabel = `Dreamed frame ${this.steps}, last action ${name(now.action)}`;
      const times = this.moments.slice(-60).map((m) => m.milliseconds).sort((a, b) => a - b);
      $("speed-facts").textContent = `${times[times.length >> 1].toFixed(1)} ms of computing a step, on one CPU thread`;
    }
  }

  async record() {
    const button = $("record"), recording = !this.recorder.recording;
    button.setAttribute("aria-pressed", String(recording));
    button.querySelector("span").textContent = recording ? "Stop" : "Record";
    if (recording) return this.recorder.start();
    const clip = await this.recorder.stop(), link = document.createElement("a");
    Object.assign(link, { href: clip.url, download: clip.name });
    link.textContent = `Save ${clip.name} (${Math.ceil(clip.size / 1000)} kB)`;
    $("clip").replaceChildren(link);
    $("clip").hidden = false;
    link.focus();
  }
}

function say(text) { $("status").textContent = text; }

function fail(error) {
  say(`Something failed: ${error.message}`);
  $("screen").classList.add("failed");
}

/** Thumbnails of the start frames, as radio buttons. */
function showStarts(player) {
  const buttons = player.manifest.starts.map((start, index) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    Object.assign(canvas, { width: 96, height: 96 });
    const frames = player.observations[index];
    drawObservation(canvas, frames.at(-1), player.manifest.observation, frames.slice(0, -1));
    button.append(canvas);
    button.setAttribute("role", "radio");
    button.title = button.ariaLabel = `${index + 1}: ${start.label}`;
    button.addEventListener("click", () => choose(index));
    return button;
  });
  player.chooseStart = (index) => {
    player.start = index;
    check(buttons, index);
  };
  const choose = (index) => {
    player.chooseStart(index);
    player.restart();
  };
  $("starts").replaceChildren(...buttons);
  check(buttons, player.start);
  arrows($("starts"), buttons, choose);
}

function check(buttons, chosen) {
  buttons.forEach((button, index) => {
    button.setAttribute("aria-checked", String(index === chosen));
    button.tabIndex = index === chosen ? 0 : -1;
  });
}

/** Arrow keys move within a group of radio buttons. */
function arrows(group, buttons, choose) {
  group.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const at = buttons.indexOf(document.activeElement);
    if (!move || at < 0) return;
    event.preventDefault();
    const next = (at + move + buttons.length) % buttons.length;
    buttons[next].focus();
    choose(next);
  });
}

function describe({ env, preset, train_steps: steps, parameters, dynamics, actions }, input) {
  $("title").textContent = env.replace(/^.*\//, "").replace(/-v\d+$/, "");
  document.title = `A dream of ${env}`;
  const size = parameters >= 1e6 ? `${(parameters / 1e6).toFixed(1)} M` : `${Math.round(parameters / 1e3)} k`;
  $("facts").textContent = `A world model (${dynamics}, ${size} parameters, preset ${preset}) predicts every frame ` +
    `after ${steps.toLocaleString("en")} steps of training in ${env}. The game itself is not running.`;
  $("legend").replaceChildren(...actions.names.map((name, index) => {
    const item = document.createElement("li");
    item.textContent = name.toLowerCase();
    item.style.setProperty("--hue", actionColour(index));
    return item;
  }));
  const fire = actions.names.some((n) => /FIRE/i.test(n)) ? ", space to fire" : "";
  $("keys").textContent = (input.usesArrows ? `Arrow keys${fire}, or ` : "") +
    `1 to ${Math.min(actions.names.length, 10)} for each action; or a gamepad.`;
}

function wire(player) {
  const texts = () => {
    $("speed-text").textContent = player.speed === Infinity ? "as fast as it goes" : `${player.speed}×`;
    $("temperature-text").textContent = player.temperature.toFixed(2);
  };
  $("seed").value = number("seed", 0);
  texts();
  $("speed").addEventListener("input", texts);
  $("temperature").addEventListener("input", texts);
  $("seed").addEventListener("change", () => player.restart());
  $("pause").addEventListener("click", () => player.pause());
  $("once").addEventListener("click", () => { player.pause(true); player.step(); });
  $("restart").addEventListener("click", () => player.restart());
  $("record").addEventListener("click", () => player.record());
  $("record").disabled = !player.recorder.supported;
  const both = [$("human"), $("agent")];
  both.forEach((button) => button.addEventListener("click", () => player.control(button.id)));
  arrows(both[0].parentElement, both, (index) => player.control(both[index].id));
  const shortcuts = {
    KeyP: () => player.pause(),
    KeyN: () => $("once").click(),
    KeyR: () => player.restart(),
    KeyV: () => $("record").click(),
    KeyA: () => player.control(player.by === "agent" ? "human" : "agent"),
  };
  addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    shortcuts[event.code]?.();
  });
  player.input.buttons($("pad"));
  const redraw = () => { if (player.now) { describe(player.manifest, player.input); player.show(); } };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("resize", redraw);
  document.addEventListener("visibilitychange", () => { player.due = performance.now(); });
}

async function main() {
  const source = new LocalDream();
  const { manifest, observations } = await source.load();
  const player = new Player(source, manifest, observations);
  const [height, width] = manifest.observation.shape.length === 3 ? manifest.observation.shape : [3, 4];
  const scale = Math.max(1, Math.round(512 / Math.max(height, width)));
  Object.assign($("frame"), { width: width * scale, height: height * scale });
  $("frame").style.aspectRatio = `${width} / ${height}`;
  const { variables, classes } = manifest.latent;
  $("latent-size").textContent = `${variables} variables of ${classes} classes`;
  describe(manifest, player.input);
  wire(player);
  showStarts(player);
  player.control(player.by);
  await player.restart();
  player.pause(!player.playing);
  document.body.classList.add("ready");
  globalThis.drama = player; // for tests and for the curious
  const frame = async (time) => {
    await player.tick(time).catch(fail);
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}

main().catch(fail);
