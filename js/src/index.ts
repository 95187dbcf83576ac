/** One-bit super-resolution: `const up = await load("bitsr-m-x4"); const out = await up.upscale(image)`. */
import { processors, read } from "#platform";
import { Core } from "./core.js";
import { asBitsrError, BitsrError } from "./errors.js";
import { HereLane, type Lane, Lanes, WorkerLane } from "./lanes.js";
import { type NetName, NETS } from "./nets.js";
import { FILL, REACH } from "./rows.js";

export { BitsrError, type NetName };

/** Names of the nets that come with the package. */
export const nets = Object.keys(NETS) as NetName[];

/**
 * Rows of 8-bit samples, interleaved, width x height pixels of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4
 * (RGB, alpha) samples. An `ImageData` is one.
 */
export interface Pixels {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8ClampedArray | Uint8Array;
}

export interface LoadOptions {
  /** Workers that share an image; 0: none, the caller's thread. Default: the processors, at most 8. */
  workers?: number;
  /** Where bitsr.wasm lies; default: beside this file. */
  wasmUrl?: string | URL;
}

export interface UpscaleOptions {
  /** Called with SR rows done, and SR rows in all. */
  onProgress?: (done: number, total: number) => void;
  /** Ends the work; the promise is then rejected with the signal's reason. */
  signal?: AbortSignal;
}

export interface RowsOptions {
  /** LR pixels of a row, and rows in all. */
  width: number;
  height: number;
  /** Samples of a pixel, 1 to 4. */
  channels: number;
  signal?: AbortSignal;
}

/** LR pixels to work on between two looks at the signal. */
const CHUNK = 16384;
/** The most workers that are started unasked. */
const WORKERS = 8;

/**
 * A net, ready for images.
 *
 * net: a name of `nets`, the URL of a .bsr file (in Node also a path), or its bytes.
 * Rejects with BitsrError where there is no such net, or the file is no sound model.
 */
export async function load(
  net: NetName | (string & {}) | URL | Uint8Array | ArrayBuffer,
  options: LoadOptions = {},
): Promise<Upscaler> {
  const workers = options.workers ?? Math.min(processors(), WORKERS);
  if (!Number.isInteger(workers) || workers < 0) {
    throw new BitsrError(`workers must be a whole number, at least 0, not ${workers}`);
  }
  const [name, bytes] = await bytesOf(net);
  const wasm = await read(options.wasmUrl ?? new URL("./bitsr.wasm", import.meta.url));
  let module: WebAssembly.Module;
  try {
    module = await WebAssembly.compile(wasm as BufferSource);
  } catch (error) {
    throw asBitsrError(error, "bitsr.wasm cannot be compiled here");
  }
  const { scale, radius } = await Core.open(module, bytes);
  const lanes = new Lanes(Math.max(workers, 1), async () =>
    workers ? WorkerLane.start(module, bytes) : new HereLane(module, bytes),
  );
  return new Upscaler(name, scale, radius, lanes);
}

async function bytesOf(net: string | URL | Uint8Array | ArrayBuffer): Promise<[string, Uint8Array]> {
  if (net instanceof Uint8Array) return ["unnamed", net.slice()];
  if (net instanceof ArrayBuffer) return ["unnamed", new Uint8Array(net.slice(0))];
  if (typeof net === "string" && Object.hasOwn(NETS, net)) return [net, await read(NETS[net as NetName])];
  const text = String(net);
  if (!/[/.]/.test(text)) throw new BitsrError(`no net named ${text}; there are: ${nets.join(", ")}`);
  const stem = text.replace(/[?#].*$/, "").replace(/^.*\//, "").replace(/\.bsr$/, "");
  return [stem, await read(net)];
}

/** One net, ready for images; made by `load`. */
export class Upscaler {
  /** Of a net that comes with the package, or of its file; "unnamed" where it came as bytes. */
  readonly name: string;
  /** SR pixels an LR pixel, each way. */
  readonly scale: number;
  /** LR rows above and below that an SR row depends on; infinite of a net that sees the whole image. */
  readonly overlap: number;
  readonly #lanes: Lanes;

  /** @internal */
  constructor(name: string, scale: number, radius: number, lanes: Lanes) {
    this.name = name;
    this.scale = scale;
    this.overlap = Math.max(radius, REACH) + FILL;
    this.#lanes = lanes;
  }

  /**
   * The image enlarged, of the same kind: an ImageData, or an object of width, height and data. The
   * bytes are those of `bitsr upscale`, with any number of workers. Workers take a strip each, and the
   * rows around it that the net sees; a small image is one worker's.
   */
  async upscale<T extends Pixels>(image: T, options: UpscaleOptions = {}): Promise<T> {
    const { width, height, data } = image;
    const channels = channelsOf(width, height, data);
    const { signal, onProgress } = options;
    const s = this.scale, row = width * channels, wide = s * s * row;
    const out = blank(image, s, channels);
    const around = this.overlap;
    const parts = Math.max(1, Math.min(this.#lanes.most, Math.floor(height / (2 * around))));
    const stop = new AbortController();
    let done = 0;
    const part = (i: number) =>
      this.#lanes.use(async (lane) => {
        const from = Math.floor((i * height) / parts), to = Math.floor(((i + 1) * height) / parts);
        const top = Math.max(from - around, 0), bottom = Math.min(to + around, height);
        await lane.begin(width, bottom - top, channels);
        let y = top; // LR row of the next SR rows
        for await (const rows of pushed(lane, chunks(data, row, width, top, bottom), signal, stop.signal)) {
          const next = y + rows.length / wide;
          const first = Math.max(y, from), last = Math.min(next, to);
          if (first < last) {
            out.data.set(rows.subarray((first - y) * wide, (last - y) * wide), first * wide);
            done += last - first;
            onProgress?.(s * done, s * height);
          }
          y = next;
        }
      });
    const all = Array.from({ length: parts }, (_, i) =>
      part(i).catch((error) => {
        stop.abort();
        throw error;
      }),
    );
    const failed = (await Promise.allSettled(all)).filter((end) => end.status === "rejected");
    if (failed.length) {
      signal?.throwIfAborted();
      throw failed.find((end) => !(end.reason instanceof Stopped))?.reason;
    }
    return out;
  }

  /**
   * SR rows while LR rows come, for images of which neither fits into memory: it follows the width,
   * except of a net that sees the whole image. Any number of whole rows at a time, from top to bottom.
   */
  async *rows(
    strips: Iterable<Uint8Array | Uint8ClampedArray> | AsyncIterable<Uint8Array | Uint8ClampedArray>,
    options: RowsOptions,
  ): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
    const { width, height, channels, signal } = options;
    if (![1, 2, 3, 4].includes(channels)) throw new BitsrError(`channels must be 1 to 4, not ${channels}`);
    checkSize(width, height);
    const lane = await this.#lanes.take();
    let good = false;
    try {
      await lane.begin(width, height, channels);
      yield* pushed(lane, whole(strips, width * channels, height), signal);
      good = true;
    } finally {
      this.#lanes.give(lane, good);
    }
  }

  /** End the workers. What is under way is rejected, as is what comes later. */
  close(): void {
    this.#lanes.close();
  }
}

/** Another part of the same image has failed. */
class Stopped extends Error {}

async function* pushed(
  lane: Lane,
  strips: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  signal: AbortSignal | undefined,
  stop?: AbortSignal,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  signal?.throwIfAborted();
  for await (const strip of strips) {
    const rows = await lane.push(strip);
    signal?.throwIfAborted();
    if (stop?.aborted) throw new Stopped();
    if (rows.length) yield rows as Uint8Array<ArrayBuffer>;
  }
}

/** Rows [top, bottom) of an image, some at a time. */
function* chunks(data: Pixels["data"], row: number, width: number, top: number, bottom: number) {
  const n = Math.max(8, Math.floor(CHUNK / width));
  for (let y = top; y < bottom; y += n) {
    const end = Math.min(y + n, bottom);
    yield new Uint8Array(data.buffer, data.byteOffset + y * row, (end - y) * row);
  }
}

/** Strips of a caller, checked. */
async function* whole(
  strips: Iterable<Uint8Array | Uint8ClampedArray> | AsyncIterable<Uint8Array | Uint8ClampedArray>,
  row: number,
  height: number,
) {
  let left = height;
  for await (const strip of strips) {
    if (strip.length % row) throw new BitsrError(`a strip has ${strip.length} samples, no whole rows of ${row}`);
    left -= strip.length / row;
    if (left < 0) throw new BitsrError(`more than ${height} rows came`);
    if (strip.length) yield new Uint8Array(strip.buffer, strip.byteOffset, strip.length);
  }
  if (left) throw new BitsrError(`only ${height - left} of ${height} rows came`);
}

function checkSize(width: number, height: number): void {
  const sound = (n: number) => Number.isInteger(n) && n > 0 && n < 2 ** 31;
  if (!sound(width) || !sound(height)) throw new BitsrError(`impossible size: ${width} x ${height}`);
}

function channelsOf(width: number, height: number, data: Pixels["data"]): number {
  checkSize(width, height);
  if (!(data instanceof Uint8Array || data instanceof Uint8ClampedArray)) {
    throw new BitsrError("samples must be a Uint8Array or a Uint8ClampedArray");
  }
  const channels = data.length / (width * height);
  if (![1, 2, 3, 4].includes(channels)) {
    throw new BitsrError(`${width} x ${height} pixels have 1 to 4 samples each, not ${data.length} in all`);
  }
  return channels;
}

/** An image of the kind of another, enlarged, for its pixels to be written. */
function blank<T extends Pixels>(image: T, scale: number, channels: number): T {
  const width = scale * image.width, height = scale * image.height;
  try {
    if (typeof ImageData !== "undefined" && image instanceof ImageData) {
      return new ImageData(width, height, { colorSpace: image.colorSpace }) as Pixels as T;
    }
    const kind = image.data instanceof Uint8ClampedArray ? Uint8ClampedArray : Uint8Array;
    return { width, height, data: new kind(width * height * channels) } as Pixels as T;
  } catch {
    throw new BitsrError(`no memory for ${width} x ${height} pixels`);
  }
}
