/** What enlarges an image: the WebAssembly core, or the native engine of `bitsr serve`. */
import { load } from "bitsr";
import { PageError } from "./errors";
import { parts, type Piece, PiecesWriter } from "./png";
import type { Source } from "./source";

/** Of each gigabyte that the device has: the most pixels of a result of one piece, and of a piece of others. */
const WHOLE = 4e6;
const PIECE = 1e6;
/** Most bytes that the native engine takes (src/bitsr/serve/server.py). */
const NATIVE_BYTES = 2 ** 28;
/** LR pixels that are decoded and enlarged at a time. */
const STRIP = 2 ** 17;
const WORKERS = 8;

export interface Task {
  source: Source;
  net: string;
  scale: number;
  /** Address of the page, under which nets and the native engine lie. */
  base: string;
  /** Gigabytes of the device's memory. */
  memory: number;
  /** Called with the share of the result that is done. */
  progress(share: number): void;
}

/** The result in pieces, from top to bottom. */
export type Engine = (task: Task) => Promise<Piece[]>;

/** What takes LR rows [from, to) of the result. */
function writer({ source, scale, memory }: Task, from: number, to: number): PiecesWriter {
  const shape = { width: scale * source.width, height: scale * source.height, channels: source.channels };
  const whole = shape.width * shape.height <= memory * WHOLE;
  const high = whole ? shape.height : Math.max(1, Math.floor((memory * PIECE) / shape.width));
  return new PiecesWriter(shape, source.colours, scale * from, scale * to, high);
}

function* strips(source: Source, from: number, to: number): Generator<Uint8Array<ArrayBuffer>> {
  const rows = Math.max(8, Math.floor(STRIP / source.width));
  for (let y = from; y < to; y += rows) yield source.samples(y, Math.min(rows, to - y));
}

export const wasm: Engine = async (task) => {
  const { source, scale, progress } = task;
  const { width, height, channels } = source;
  const lanes = Math.min(navigator.hardwareConcurrency || 1, WORKERS);
  const upscaler = await load(await bytesOf(task), { workers: lanes });
  if (scale * scale * width * height <= task.memory * WHOLE) {
    const image = { width, height, data: source.samples(0, height) };
    const out = await upscaler.upscale(image, { onProgress: (rows, all) => progress(rows / all) });
    const whole = writer(task, 0, height);
    await whole.write(out.data);
    return whole.finish();
  }

  const { overlap } = upscaler;
  const stride = scale * width * channels;
  let done = 0;
  /** LR rows [from, to), enlarged together with the rows around them that the net sees. */
  async function section(from: number, to: number): Promise<Piece[]> {
    const [top, bottom] = [Math.max(from - overlap, 0), Math.min(to + overlap, height)];
    const size = { width, height: bottom - top, channels };
    const pieces = writer(task, from, to);
    let y = scale * top;
    for await (const rows of upscaler.rows(strips(source, top, bottom), size)) {
      const next = y + rows.length / stride;
      const [first, last] = [Math.max(y, scale * from), Math.min(next, scale * to)];
      if (first < last) {
        await pieces.write(rows.subarray((first - y) * stride, (last - y) * stride));
        progress((done += last - first) / (scale * height));
      }
      y = next;
    }
    return pieces.finish();
  }

  // Two sections a worker, for not all cores are equally fast; high ones, for the rows around are twice the work.
  const high = lanes === 1 ? height : Math.max(Math.ceil(height / (2 * lanes)), 6 * overlap);
  const made: Piece[][] = [];
  const starts = Array.from({ length: Math.ceil(height / high) }, (_, i) => i).values();
  const lane = async () => {
    for (const i of starts) made[i] = await section(i * high, Math.min((i + 1) * high, height));
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return made.flat();
};

async function bytesOf({ net, base }: Task): Promise<Uint8Array> {
  const response = await fetch(new URL(`nets/${net}.bsr`, base)).catch(() => undefined);
  if (!response?.ok) throw new PageError(`${net} is not here yet: it has to be loaded once with a connection`);
  return new Uint8Array(await response.arrayBuffer());
}

export const native: Engine = async (task) => {
  const { source, net, scale, base } = task;
  const { width, height, channels } = source;
  if (width * height * channels > NATIVE_BYTES) {
    throw new PageError("Too large for the page; `bitsr upscale` has no such limit");
  }
  const body = new Blob([...strips(source, 0, height)]);
  const query = new URLSearchParams({ net, width: `${width}`, height: `${height}`, channels: `${channels}` });
  const response = await fetch(new URL(`native?${query}`, base), { method: "POST", body }).catch(() => undefined);
  if (!response) throw new PageError("The engine does not answer: is `bitsr serve` still running?");
  if (!response.ok) throw new PageError((await response.text()).trim());

  const stride = scale * width * channels;
  const pieces = writer(task, 0, height);
  let [done, rest] = [0, new Uint8Array(0)];
  for await (const part of parts(response.body!)) {
    const all = joined(rest, part);
    const whole = all.length - (all.length % stride);
    await pieces.write(all.subarray(0, whole));
    rest = all.slice(whole);
    task.progress((done += whole) / (scale * height * stride));
  }
  if (done !== scale * height * stride) throw new PageError("The engine stopped before the end");
  return pieces.finish();
};

function joined(a: Uint8Array, b: Uint8Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(a.length + b.length);
  out.set(a);
  out.set(b, a.length);
  return out;
}
