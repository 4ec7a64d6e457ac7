// Drawing of observations and latents.

/** Colours of the style sheet by name, such as "ink" for --ink. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** An image observation as RGBA; other channels than three get one colour each, brightest wins. */
function rgba(obs, [height, width, channels], palette) {
  const image = new ImageData(width, height), out = image.data;
  for (let p = 0; p < height * width; p++) {
    const at = p * channels;
    for (let k = 0; k < 3; k++) {
      let value = obs[at + k];
      if (palette) {
        value = 0;
        for (let c = 0; c < channels; c++) value = Math.max(value, obs[at + c] / 255 * palette[c][k]);
      }
      out[4 * p + k] = Math.round(value);
    }
    out[4 * p + 3] = 255;
  }
  return image;
}

const small = document.createElement("canvas");

/** Draw an observation to fill a canvas: a picture with hard edges, or a plot of a vector. */
export function drawObservation(canvas, obs, observation, past = []) {
  const { shape, palette } = observation;
  if (shape.length !== 3) return drawVector(canvas, obs, past);
  [small.height, small.width] = shape;
  small.getContext("2d").putImageData(rgba(obs, shape, palette), 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

/** Small plots, one for each entry of a vector, of the last steps; more than 16 entries as bars. */
function drawVector(canvas, obs, past) {
  const context = canvas.getContext("2d"), { width, height } = canvas;
  context.fillStyle = colour("panel");
  context.fillRect(0, 0, width, height);
  const count = obs.length;
  if (count > 16) {
    const largest = Math.max(1e-6, ...obs.map(Math.abs));
    obs.forEach((x, i) => {
      context.fillStyle = colour(x < 0 ? "human" : "agent");
      const w = width / count, h = (x / largest) * height * 0.45;
      context.fillRect(i * w, height / 2 - Math.max(h, 0), Math.max(1, w - 1), Math.abs(h));
    });
    return;
  }
  const unit = width / 512, row = height / count;
  const rows = [...past.slice(-119), obs];
  for (let i = 0; i < count; i++) {
    const values = rows.map((r) => r[i]);
    const low = Math.min(...values), high = Math.max(...values), top = i * row;
    const range = Math.max(high - low, 1e-3);
    context.strokeStyle = colour("line");
    context.lineWidth = unit;
    context.strokeRect(0, top, width, row);
    context.beginPath();
    context.strokeStyle = colour("agent");
    context.lineWidth = 2.5 * unit;
    values.forEach((x, t) => {
      const left = 70 * unit + (t / 119) * (width - 150 * unit);
      const y = top + row * (0.85 - (0.7 * (x - low)) / range);
      if (t) context.lineTo(left, y); else context.moveTo(left, y);
    });
    context.stroke();
    context.fillStyle = colour("ink");
    context.font = `${Math.min(18, row / unit / 3)*unit}px ui-monospace, monospace`;
    context.textBaseline = "middle";
    context.fillText(`x${i}`, 14 * unit, top + row / 2);
    context.fillText(obs[i].toFixed(2), width - 72 * unit, top + row / 2);
  }
}

/** One column for each latent variable, lit at its class. */
export function drawLatent(canvas, latent, classes, before) {
  const cell = Math.max(2, Math.floor(288 / Math.max(latent.length, classes)));
  canvas.width = cell * latent.length;
  canvas.height = cell * classes;
  const context = canvas.getContext("2d");
  context.fillStyle = colour("well");
  context.fillRect(0, 0, canvas.width, canvas.height);
  latent.forEach((c, k) => {
    context.fillStyle = colour(before && before[k] !== c ? "human" : "agent"); // changed: bright
    context.fillRect(k * cell, c * cell, cell - 1, cell - 1);
  });
}
