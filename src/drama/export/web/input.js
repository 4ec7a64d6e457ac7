// From keys, buttons, touch and gamepad to an action of the environment.

const ARROWS = {
  ArrowUp: "UP", ArrowDown: "DOWN", ArrowLeft: "LEFT", ArrowRight: "RIGHT",
  KeyW: "UP", KeyS: "DOWN", KeyD: "RIGHT", Space: "FIRE",
};
// KeyA is the agent's. PAD: standard mapping of the Gamepad API.
const PAD = { 12: "UP", 13: "DOWN", 14: "LEFT", 15: "RIGHT", 0: "FIRE", 1: "FIRE" };
const ORDER = ["UP", "DOWN", "LEFT", "RIGHT", "FIRE"];
const SIGNS = { UP: "↑", DOWN: "↓", LEFT: "←", RIGHT: "→", FIRE: "●", NOOP: "·" };

/** The directions in a name such as UPRIGHTFIRE; null for any other name. */
function parts(name) {
  let rest = name.toUpperCase().replace(/[^A-Z]/g, "");
  const found = new Set();
  while (rest) {
    const part = ORDER.find((p) => rest.startsWith(p));
    if (!part) return null;
    found.add(part);
    rest = rest.slice(part.length);
  }
  return found.size ? found : null;
}

export class Input {
  /**
   * @param names    names of the actions
   * @param idle     the action that does nothing, or null
   * @param onAction called with an action when the player presses something
   */
  constructor(names, idle, onAction) {
    this.names = names;
    this.idle = idle;
    this.onAction = onAction;
    this.directions = names.map(parts);
    this.held = new Map(); // key or button -> direction, or index of an action
    this.last = idle ?? 0;
    addEventListener("keydown", (event) => this.key(event, true));
    addEventListener("keyup", (event) => this.key(event, false));
    addEventListener("blur", () => this.held.clear());
  }

  get usesArrows() { return this.directions.some(Boolean); }

  key(event, down) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const focused = event.target.tagName === "BUTTON";
    const meaning = this.meaning(event.code);
    if (meaning === undefined || (event.code === "Space" && focused)) return;
    if (event.target.getAttribute?.("role") === "radio" && event.code.startsWith("Arrow")) return;
    event.preventDefault();
    if (down && !event.repeat) this.press(event.code, meaning, event.timeStamp);
    else if (!down) this.held.delete(event.code);
  }

  /** The direction, or the index of the action, that a key stands for. */
  meaning(code) {
    const digit = /^(?:Digit|Numpad)(\d)$/.exec(code);
    if (digit) {
      const index = (Number(digit[1]) + 9) % 10; // 1 is the first action
      return index < this.names.length ? index : undefined;
    }
    const direction = ARROWS[code];
    return direction && this.directions.some((d) => d?.has(direction)) ? direction : undefined;
  }

  press(key, meaning, time = performance.now()) {
    this.held.set(key, meaning);
    this.last = this.action();
    this.onAction(this.last, time);
  }

  release(key) { this.held.delete(key); }

  /** The action of what is held now; without anything the idle one, or the last one. */
  action() {
    this.poll();
    const held = [...this.held.values()];
    const chosen = held.filter((h) => typeof h === "number").at(-1);
    if (chosen !== undefined) return chosen;
    const wanted = new Set(held);
    if (!wanted.size) return this.idle ?? this.last;
    let best = this.idle ?? this.last, most = 0;
    this.directions.forEach((has, index) => {
      if (!has || [...has].some((d) => !wanted.has(d))) return;
      if (has.size > most) [best, most] = [index, has.size];
    });
    return best;
  }

  /** Gamepads send no events. Returns whether one is in use. */
  poll() {
    let used = false;
    for (const pad of navigator.getGamepads?.() ?? []) {
      if (!pad) continue;
      const pressed = new Set(pad.buttons.flatMap((b, i) => (b.pressed && PAD[i] ? [PAD[i]] : [])));
      const [x, y] = pad.axes;
      if (x < -0.5) pressed.add("LEFT");
      if (x > 0.5) pressed.add("RIGHT");
      if (y < -0.5) pressed.add("UP");
      if (y > 0.5) pressed.add("DOWN");
      for (const direction of ORDER) {
        const key = `pad${pad.index}${direction}`;
        if (!pressed.has(direction)) this.held.delete(key);
        else if (!this.held.has(key)) {
          this.held.set(key, direction);
          used = true;
        }
      }
    }
    return used;
  }

  /** Fill an element with one button for each action, for touch and mouse. */
  buttons(element) {
    const simple = this.names.filter((_, i) => !this.directions[i] || this.directions[i].size === 1);
    const shown = this.names.length > 9 ? simple : this.names;
    element.replaceChildren(...shown.map((name) => {
      const index = this.names.indexOf(name), button = document.createElement("button");
      const sign = SIGNS[name.toUpperCase()];
      button.textContent = sign ?? name;
      button.title = button.ariaLabel = name.toLowerCase();
      button.dataset.action = index;
      if (sign && ORDER.includes(name.toUpperCase())) button.classList.add(name.toLowerCase());
      const meaning = this.directions[index]?.size === 1 ? name.toUpperCase() : index;
      button.addEventListener("pointerdown", (event) => {
        button.setPointerCapture(event.pointerId);
        this.press(`button${index}`, meaning, event.timeStamp);
      });
      for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
        button.addEventListener(end, () => this.release(`button${index}`));
      }
      button.addEventListener("click", (event) => { // by keyboard or a screen reader
        if (event.detail === 0) {
          this.press(`button${index}`, meaning, event.timeStamp);
          this.release(`button${index}`);
        }
      });
      button.addEventListener("contextmenu", (event) => event.preventDefault());
      return button;
    }));
  }
}
