/** What enlarges an image: the WebAssembly core, or the native engine of `bitsr serve`. */
import { load } from "bitsr";
import { PageError } from "./errors";
import { parts, type Piece, PieceWriter, type Shape } from "./png";
import type { Source } from "./source";

/** Most pixels of a piece, for each gigabyte that the device has; a result of no more is one piece. */
const PIECE = 4e6;
/** Most bytes that the native engine takes (src/bitsr/serve/server.py). */
const NATIVE_BYTES = 2 ** 28;
/** LR rows that are decoded at a time. */
const STRIP = 128;
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

const shapeOf = ({ source, scale }: Task, rows: number): Shape => ({
  width: scale * source.width,
  height: scale * rows,
  channels: source.channels,
});

function* strips(source: Source, from: number, to: number): Generator<Uint8Array> {
  for (let y = from; y < to; y += STRIP) yield source.samples(y, Math.min(STRIP, to - y));
}

export const wasm: Engine = async (task) => {
  const { source, scale } = task;
  const { width, height, channels } = source;
  const lanes = Math.min(navigator.hardwareConcurrency || 1, WORKERS);
  const upscaler = await load(await bytesOf(task), { workers: lanes });
  const { overlap } = upscaler;
  let done = 0;
  const advance = (rows: number) => task.progress((done += rows) / (scale * height));

  /** Rows [from, to) of the image, and their enlargement. */
  async function piece(from: number, to: number): Promise<Piece> {
    const [top, bottom] = [Math.max(from - overlap, 0), Math.min(to + overlap, height)];
    const writer = new PieceWriter(shapeOf(task, to - from), scale * from, source.colours);
    const stride = scale * width * channels;
    let y = scale * top;
    for await (const rows of upscaler.rows(strips(source, top, bottom), { width, height: bottom - top, channels })) {
      const next = y + rows.length / stride;
      const [first, last] = [Math.max(y, scale * from), Math.min(next, scale * to)];
      if (first < last) {
        await writer.write(rows.subarray((first - y) * stride, (last - y) * stride));
        advance(last - first);
      }
      y = next;
    }
    return writer.finish();
  }

  if (scale * scale * width * height <= task.memory * PIECE) {
    const image = { width, height, data: source.samples(0, height) };
    const out = await upscaler.upscale(image, { onProgress: (rows, all) => task.progress(rows / all) });
    const writer = new PieceWriter(shapeOf(task, height), 0, source.colours);
    await writer.write(out.data as Uint8Array);
    return [await writer.finish()];
  }
  // Pieces are made side by side, one a worker, with the rows around them that the net sees.
  const most = Math.max(1, Math.floor((task.memory * PIECE) / (scale * scale * width)));
  const rows = Math.min(most, Math.max(Math.ceil(height / lanes), 2 * overlap));
  const starts = Array.from({ length: Math.ceil(height / rows) }, (_, i) => i * rows);
  const pieces: Piece[] = [];
  const next = starts.values();
  const lane = async () => {
    for (const from of next) pieces[from / rows] = await piece(from, Math.min(from + rows, height));
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return pieces;
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
  const body = new Blob([...strips(source, 0, height)].map((samples) => samples.slice()));
  const query = new URLSearchParams({ net, width: `${width}`, height: `${height}`, channels: `${channels}` });
  const response = await fetch(new URL(`native?${query}`, base), { method: "POST", body }).catch(() => undefined);
  if (!response) throw new PageError("The engine does not answer: is `bitsr serve` still running?");
  if (!response.ok) throw new PageError((await response.text()).trim());

  const stride = scale * width * channels;
  const high = Math.min(height, Math.max(1, Math.floor((task.memory * PIECE) / (scale * scale * width))));
  const pieces: Piece[] = [];
  let [writer, y, rest]: [PieceWriter | undefined, number, Uint8Array] = [undefined, 0, new Uint8Array(0)];
  for await (const part of parts(response.body!)) {
    rest = joined(rest, part);
    while (rest.length >= stride) {
      const from = pieces.length * high;
      const to = Math.min(from + high, height);
      writer ??= new PieceWriter(shapeOf(task, to - from), scale * from, source.colours);
      const rows = Math.min(Math.floor(rest.length / stride), scale * to - y);
      await writer.write(rest.subarray(0, rows * stride));
      rest = rest.subarray(rows * stride);
      y += rows;
      if (y < scale * to) continue;
      pieces.push(await writer.finish());
      writer = undefined;
    }
    task.progress(y / (scale * height));
  }
  if (y !== scale * height) throw new PageError("The engine stopped before the end");
  return pieces;
};

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  const out = new Uint8Array(a.length + b.length);
  out.set(a);
  out.set(b, a.length);
  return out;
}
