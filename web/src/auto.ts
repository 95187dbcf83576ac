/** Which net an image wants, as `bitsr upscale -n auto` chooses it (src/bitsr/auto.py). */
import { jpegQuality, lossyWebp } from "./container";
import type { Source } from "./source";

const BEST_JPEG = 90;
const LEAST_NOISE = 2;
const STRIP = 64;
const STRIPS = 24;

/** What speaks for a photo net, in a few words; "" where nothing does. */
export function faults(file: Uint8Array<ArrayBuffer>, source: Source): string {
  const quality = jpegQuality(file);
  if (quality !== undefined && quality <= BEST_JPEG) return `JPEG of quality ${quality}`;
  if (lossyWebp(file)) return "lossy WebP";
  const every = Math.max(1, Math.floor(source.height / (STRIP * STRIPS)));
  const levels: number[] = [];
  for (let i = 0; i * STRIP < source.height; i += every) {
    const rows = Math.min(STRIP, source.height - i * STRIP);
    levels.push(noiseLevel(luma(source.rows(i * STRIP, rows)), rows, source.width));
  }
  const noise = median(levels);
  return noise >= LEAST_NOISE ? `noise of ${Math.round(noise)} levels` : "";
}

function luma(rgba: Uint8ClampedArray): Float32Array {
  const out = new Float32Array(rgba.length / 4);
  for (let i = 0; i < out.length; i++) {
    const y = 16 + (65.481 * rgba[4 * i]! + 128.553 * rgba[4 * i + 1]! + 24.966 * rgba[4 * i + 2]!) / 255;
    out[i] = Math.round(128 * (y - 127.5)) / 128 + 127.5;
  }
  return out;
}

/**
 * The deviation of noise in luma: the median over the flattest tenth of its 8x8 blocks, by the
 * difference of two Laplacians (Immerkaer 1996). Blocks near black or white are left out.
 */
function noiseLevel(y: Float32Array, height: number, width: number): number {
  const blocks: { flat: number; rough: number }[] = [];
  for (let by = 1; by + 8 < height; by += 8) {
    for (let bx = 1; bx + 8 < width; bx += 8) {
      let [low, high, square] = [Infinity, -Infinity, 0];
      const coarse = [0, 0, 0, 0];
      for (let i = 0; i < 64; i++) {
        const at = (by + (i >> 3)) * width + bx + (i & 7);
        const [up, down] = [at - width, at + width];
        const sides = y[up]! + y[down]! + y[at - 1]! + y[at + 1]!;
        const corners = y[up - 1]! + y[up + 1]! + y[down - 1]! + y[down + 1]!;
        square += ((corners - 2 * sides + 4 * y[at]!) / 6) ** 2;
        low = Math.min(low, y[at]!);
        high = Math.max(high, y[at]!);
        coarse[2 * (i >> 5) + ((i & 7) >> 2)]! += y[at]! / 16;
      }
      if (low <= 20 || high >= 235) continue;
      const mean = (coarse[0]! + coarse[1]! + coarse[2]! + coarse[3]!) / 4;
      const flat = coarse.reduce((sum, value) => sum + (value - mean) ** 2, 0);
      blocks.push({ flat, rough: Math.sqrt(square / 64) });
    }
  }
  if (blocks.length < 16) return 0;
  blocks.sort((a, b) => a.flat - b.flat);
  const flattest = blocks.slice(0, Math.max(16, Math.floor(blocks.length / 10)));
  return median(flattest.map((block) => block.rough));
}

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
