// PCG-RXS-M-XS (O'Neill, 2014) with 32 bits of state, as in drama/export/random.py.

export const LATENTS = 0, END = 1, POLICY = 2;

function scramble(state) {
  const word = Math.imul((state >>> ((state >>> 28) + 4)) ^ state, 277803737) >>> 0;
  return ((word >>> 22) ^ word) >>> 0;
}

/** One stream of uniform numbers in [0, 1) with 24 bits, which float32 holds exactly. */
export class Random {
  constructor(seed, stream = LATENTS) {
    this.state = scramble((seed + Math.imul(0x9e3779b9, stream)) >>> 0);
  }

  next() {
    const number = scramble(this.state);
    this.state = (Math.imul(this.state, 747796405) + 2891336453) >>> 0;
    return (number >>> 8) / 16777216;
  }

  fill(array) {
    for (let i = 0; i < array.length; i++) array[i] = this.next();
    return array;
  }
}
