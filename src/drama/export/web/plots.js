// Plots of scalars and of action probabilities over the last steps.

import { colour } from "./picture.js";

const STEPS = 160;
export const HUES = [212, 22, 150, 45, 285, 335, 185, 95, 255, 5];

function prepared(canvas) {
  const ratio = Math.min(devicePixelRatio || 1, 2), box = canvas.getBoundingClientRect();
  const width = Math.max(1, Math.round(box.width * ratio));
  const height = Math.max(1, Math.round(box.height * ratio));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  return { context, width, height, ratio };
}

/** Colour of an action. */
export function actionColour(index) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return `hsl(${HUES[index % HUES.length]} ${dark ? 75 : 70}% ${dark ? 62 : 50}%)`;
}

/**
 * Draw one scalar over time.
 * @param moments  what to plot, with `by`, who chose the action
 * @param name     field of a moment
 * @param range    [low, high], or null to fit the data
 */
export function plotScalar(canvas, moments, name, range) {
  const { context, width, height, ratio } = prepared(canvas);
  const shown = moments.slice(-STEPS), strip = 3 * ratio;
  let [low, high] = range ?? [0, 0];
  if (!range) {
    for (const m of shown) [low, high] = [Math.min(low, m[name]), Math.max(high, m[name])];
    const margin = Math.max(0.1 * (high - low), 0.02);
    [low, high] = [low - margin, high + margin];
  }
  const x = (i) => (i / (STEPS - 1)) * (width - 8 * ratio) + 2 * ratio;
  const y = (v) => (height - strip - 2 * ratio) * (1 - (v - low) / (high - low)) + ratio;
  context.strokeStyle = colour("line");
  context.lineWidth = ratio;
  context.beginPath();
  context.moveTo(0, y(0));
  context.lineTo(width, y(0));
  context.stroke();
  shown.forEach((m, i) => { // who played
    context.fillStyle = colour(m.by);
    context.fillRect(x(i), height - strip, width / STEPS + 1, strip);
    if (m.first) {
      context.fillStyle = colour("line");
      context.fillRect(x(i), 0, ratio, height - strip);
    }
  });
  context.strokeStyle = colour("ink");
  context.lineWidth = 1.6 * ratio;
  context.lineJoin = "round";
  context.beginPath();
  shown.forEach((m, i) => {
    if (i && !m.first) context.lineTo(x(i), y(m[name])); else context.moveTo(x(i), y(m[name]));
  });
  context.stroke();
  if (shown.length) {
    context.fillStyle = colour("ink");
    context.beginPath();
    context.arc(x(shown.length - 1), y(shown.at(-1)[name]), 2.6 * ratio, 0, 7);
    context.fill();
  }
}

/** Draw action probabilities over time as a stack. */
export function plotPolicy(canvas, moments) {
  const { context, width, height } = prepared(canvas);
  const shown = moments.slice(-STEPS), step = width / STEPS;
  shown.forEach((m, i) => {
    let top = 0;
    m.policy.forEach((p, action) => {
      context.fillStyle = actionColour(action);
      context.fillRect(i * step, top * height, step + 0.6, p * height + 0.6);
      top += p;
    });
  });
}
