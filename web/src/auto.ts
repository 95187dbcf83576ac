/** Which net an image wants, as `bitsr upscale -n auto` chooses it (src/bitsr/auto.py). */
import { jpegQuality, webpQuantiser } from "./container";
import type { Source } from "./source";

const BEST_JPEG = 90;
const LEAST_WEBP = 24;
const LEAST_NOISE = 2;
const TEXTURE = 0.7;
const EACH = 1.15;
const BOTH = 3;
const LEAST_STEPS = 0.002;
const STRIP = 64;
const STRIPS = 24;

/** Rows of luma, 0 to 255. */
interface Strip {
  y: Float32Array;
  height: number;
  width: number;
}

/** What speaks for a photo net, in a few words; "" where nothing does. */
export function faults(file: Uint8Array<ArrayBuffer>, source: Source): string {
  const quality = jpegQuality(file);
  if (quality !== undefined && quality <= BEST_JPEG) return `JPEG of quality ${quality}`;
  if ((webpQuantiser(file) ?? 0) >= LEAST_WEBP) return "strongly compressed WebP";
  const every = Math.max(1, Math.floor(source.height / (STRIP * STRIPS)));
  const strips: Strip[] = [];
  for (let i = 0; i * STRIP < source.height; i += every) {
    const height = Math.min(STRIP, source.height - i * STRIP);
    strips.push({ y: luma(source.rows(i * STRIP, height)), height, width: source.width });
  }
  if (hasBlocks(strips)) return "blocks of a JPEG";
  const noise = noiseLevel(strips);
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

interface Block {
  coarse: number;
  rough: number;
}

/**
 * Of the 8x8 blocks of a strip that are neither near black nor near white: the deviation of the
 * means of their quarters, and that of noise, by the difference of two Laplacians (Immerkaer 1996).
 */
function blocksOf({ y, height, width }: Strip): Block[] {
  const blocks: Block[] = [];
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
      const variance = coarse.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 4;
      blocks.push({ coarse: Math.sqrt(variance), rough: Math.sqrt(square / 64) });
    }
  }
  return blocks;
}

/** The median over the flattest tenth of all blocks; 0 where even those have structure: texture. */
function noiseLevel(strips: Strip[]): number {
  const blocks = strips.flatMap(blocksOf);
  if (blocks.length < 16) return 0;
  blocks.sort((a, b) => a.coarse - b.coarse);
  const flattest = blocks.slice(0, Math.max(16, Math.floor(blocks.length / 10)));
  const noise = median(flattest.map((block) => block.rough));
  return median(flattest.map((block) => block.coarse)) < TEXTURE * noise ? noise : 0;
}

/** Whether small steps between flatter parts fall on every eighth row and column. */
function hasBlocks(strips: Strip[]): boolean {
  const across = ratio(strips, (strip) => [1, strip.width, strip.width, strip.height]);
  const down = ratio(strips, (strip) => [strip.width, strip.height, 1, strip.width]);
  return Math.min(across, down) > EACH && across * down > BOTH;
}

/**
 * How many times as often luma steps at one place of eight as at the second most frequent; 0 where
 * it hardly does, or nowhere else. lines: distance and number of pixels of a line, then of lines.
 */
function ratio(strips: Strip[], lines: (strip: Strip) => [number, number, number, number]): number {
  const [hits, pixels] = [new Array<number>(8).fill(0), new Array<number>(8).fill(0)];
  for (const strip of strips) {
    const [next, length, nextLine, count] = lines(strip);
    for (let line = 0; line < count; line++) {
      const change = (i: number): number => {
        const at = line * nextLine + i * next;
        return Math.abs(strip.y[at + next]! - strip.y[at]!);
      };
      for (let i = 1; i + 2 < length; i++) {
        const [before, step, after] = [change(i - 1), change(i), change(i + 1)];
        pixels[(i - 1) & 7]!++;
        if (step > 0.75 && step < 12 && step > 2 * Math.max(before, after)) hits[(i - 1) & 7]!++;
      }
    }
  }
  const total = (counts: number[]): number => counts.reduce((sum, value) => sum + value, 0);
  const shares = hits.map((value, i) => value / Math.max(pixels[i]!, 1)).sort((a, b) => b - a);
  return total(hits) > LEAST_STEPS * total(pixels) && shares[1]! > 0 ? shares[0]! / shares[1]! : 0;
}

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
