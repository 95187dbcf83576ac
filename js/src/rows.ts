/** Pixels around the luma net, row by row: what `Upscaler.rows` and `colour` of bitsr's Python do, to the byte. */
import { Core } from "./core.js";

/** LR rows above and below that the colour of clear pixels is taken from. */
export const FILL = 8;
/** LR rows above and below that the chroma of a row needs. */
export const REACH = 4;

/** One image on its way through a net: LR rows in, the SR rows that they complete out. */
export class Rows {
  readonly #core: Core;
  readonly #filled: Filled | undefined;
  #window: Uint8Array = new Uint8Array(0); // LR rows [first, pushed), kept for their chroma
  #first = 0;
  #pushed = 0;
  #waiting: Int16Array = new Int16Array(0); // SR luma from row `done` on
  #done = 0;

  static async begin(
    module: WebAssembly.Module, net: Uint8Array, width: number, height: number, channels: number,
  ): Promise<Rows> {
    return new Rows(await Core.open(module, net), width, height, channels);
  }

  private constructor(
    core: Core,
    readonly width: number,
    readonly height: number,
    readonly channels: number,
  ) {
    this.#core = core;
    core.begin(height, width);
    if (channels % 2 === 0) this.#filled = new Filled(width, height, channels);
  }

  push(pixels: Uint8Array): Uint8Array {
    const s = this.#core.scale, row = this.width * this.channels, wide = s * this.width;
    const strip = this.#filled ? this.#filled.push(pixels) : pixels;
    if (!strip.length) return strip;
    this.#window = joined(this.#window, strip);
    this.#pushed += strip.length / row;
    this.#waiting = joined(this.#waiting, this.#core.push(this.#core.luma(strip, this.channels)));
    const whole = this.#pushed === this.height;
    const ready = s * (whole ? this.height : Math.max(this.#pushed - REACH, 0)) - this.#done;
    const m = Math.min(ready, this.#waiting.length / wide);
    if (m <= 0) return new Uint8Array(0);
    const luma = this.#waiting.subarray(0, m * wide);
    const out = this.#core.merge(
      this.#window, this.channels, this.height, this.#first, luma, this.#done,
    );
    this.#done += m;
    this.#waiting = this.#waiting.slice(m * wide);
    const drop = Math.max(Math.floor(this.#done / s) - REACH - this.#first, 0);
    this.#window = this.#window.slice(drop * row);
    this.#first += drop;
    return out;
  }
}

/** Rows of an image in which clear pixels have the colour of those around them. */
class Filled {
  #window: Uint8Array = new Uint8Array(0); // rows [first, pushed)
  #first = 0;
  #pushed = 0;
  #done = 0;

  constructor(
    readonly width: number,
    readonly height: number,
    readonly channels: number,
  ) {}

  push(strip: Uint8Array): Uint8Array {
    const row = this.width * this.channels;
    this.#window = joined(this.#window, strip);
    this.#pushed += strip.length / row;
    const ready = this.#pushed === this.height ? this.height : this.#pushed - FILL;
    if (ready <= this.#done || (ready < this.height && ready - this.#done < FILL)) {
      return new Uint8Array(0);
    }
    const out = fillClear(this.#window, this.width, this.channels).slice(
      (this.#done - this.#first) * row,
      (ready - this.#first) * row,
    );
    this.#done = ready;
    const drop = Math.max(ready - FILL - this.#first, 0);
    this.#window = this.#window.slice(drop * row);
    this.#first += drop;
    return out;
  }
}

/**
 * Pixels whose last channel is alpha, with the colour of clear ones taken from the pixels around, by as
 * much as they are clear: weighted by alpha, or where those are clear too from FILL - 2 pixels further.
 */
export function fillClear(pixels: Uint8Array, width: number, channels: number): Uint8Array {
  const n = pixels.length / channels, colours = channels - 1, height = n / width;
  const alpha = new Int32Array(n);
  let least = 255, most = 0;
  for (let i = 0; i < n; i++) {
    const a = pixels[i * channels + colours];
    alpha[i] = a;
    if (a < least) least = a;
    if (a > most) most = a;
  }
  if (least === 255 || most === 0) return pixels;
  const total = around(alpha, width, height);
  const fills: Int32Array[] = [];
  for (let c = 0; c < colours; c++) {
    const fill = around(alpha.map((a, i) => a * pixels[i * channels + c]), width, height);
    for (let i = 0; i < n; i++) fill[i] = mean(fill[i], total[i]);
    fills.push(fill);
  }
  let known: Int32Array = total.map((t) => Number(t > 0));
  for (let times = FILL - 2; times > 0 && known.includes(0); times--) {
    const count = around(known, width, height);
    for (const fill of fills) {
      const sum = around(fill.map((v, i) => v * known[i]), width, height);
      for (let i = 0; i < n; i++) if (!known[i]) fill[i] = mean(sum[i], count[i]);
    }
    known = count.map((t) => Number(t > 0));
  }
  const out = pixels.slice();
  for (let i = 0; i < n; i++) {
    if (!known[i]) continue;
    for (let c = 0; c < colours; c++) {
      const own = pixels[i * channels + c];
      out[i * channels + c] = (alpha[i] * own + (255 - alpha[i]) * fills[c][i] + 127) / 255;
    }
  }
  return out;
}

/** sum / n, half up. */
function mean(sum: number, n: number): number {
  return Math.floor((sum + (n >> 1)) / Math.max(n, 1));
}

/** Sums over 3x3 values, none beyond the edges. */
function around(x: Int32Array, width: number, height: number): Int32Array {
  const columns = x.slice();
  for (let i = width; i < x.length; i++) columns[i] += x[i - width];
  for (let i = 0; i < x.length - width; i++) columns[i] += x[i + width];
  const out = columns.slice();
  for (let y = 0; y < height; y++) {
    const end = (y + 1) * width;
    for (let i = y * width + 1; i < end; i++) out[i] += columns[i - 1];
    for (let i = y * width; i < end - 1; i++) out[i] += columns[i + 1];
  }
  return out;
}

function joined<T extends Uint8Array | Int16Array>(a: T, b: T): T {
  if (!a.length) return b;
  const out = new (a.constructor as new (n: number) => T)(a.length + b.length);
  out.set(a);
  out.set(b, a.length);
  return out;
}
