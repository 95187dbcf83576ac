/** PNG files in and out by rows, with the browser's own inflate and deflate. */
import { PageError } from "./errors";

export const SIGNATURE = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const COLOUR_TYPES = [0, 0, 4, 2, 6];
/** Chunks that say what the samples mean, carried over to a PNG that is written. */
const KEPT = ["gAMA", "cHRM", "sRGB", "cICP"];
/** Bytes that are filtered, or that an IDAT chunk has, at a time. */
const BLOCK = 1 << 20;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

/** CRC-32 of data, going on from that of what stands before it. */
function crc32(data: Uint8Array, before = 0): number {
  let c = ~before;
  for (let i = 0; i < data.length; i++) c = CRC_TABLE[(c ^ data[i]!) & 0xff]! ^ (c >>> 8);
  return ~c >>> 0;
}

type Bytes = Uint8Array<ArrayBuffer>;

function chunk(kind: string, data: Uint8Array): Bytes {
  const out = new Uint8Array(12 + data.length);
  const view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  for (let i = 0; i < 4; i++) out[4 + i] = kind.charCodeAt(i);
  out.set(data, 8);
  view.setUint32(8 + data.length, crc32(out.subarray(4, 8 + data.length)));
  return out;
}

/** The parts of a stream; Safari's cannot be iterated over. */
export async function* parts(stream: ReadableStream<Uint8Array>): AsyncGenerator<Bytes> {
  const reader = stream.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value as Bytes;
}

/** All bytes of a stream that inflates or deflates. */
export async function through(data: BlobPart, stream: GenericTransformStream): Promise<Bytes> {
  const whole = new Blob([data]).stream().pipeThrough(stream as TransformStream<Uint8Array, Uint8Array>);
  return new Uint8Array(await new Response(whole as ReadableStream<Bytes>).arrayBuffer());
}

/** What a file says about the colours of its samples. */
export interface Colours {
  /** An ICC profile of RGB or grey samples. */
  icc?: Bytes;
  /** Chunks of a PNG that describe its samples, whole. */
  chunks: Bytes[];
}

/** Size and kind of a PNG that is written: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha. */
export interface Shape {
  width: number;
  height: number;
  channels: number;
}

async function head({ width, height, channels }: Shape, colours: Colours): Promise<Bytes[]> {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = 8;
  header[9] = COLOUR_TYPES[channels]!;
  const out: Bytes[] = [SIGNATURE, chunk("IHDR", header), ...colours.chunks];
  if (colours.icc) {
    const packed = await through(colours.icc, new CompressionStream("deflate"));
    const name = new TextEncoder().encode("ICC profile\0\0");
    const body = new Uint8Array(name.length + packed.length);
    body.set(name);
    body.set(packed, name.length);
    out.push(chunk("iCCP", body));
  }
  return out;
}

/** Rows y to y + rows of a result: a PNG of its own, and its deflated scanlines alone. */
export interface Piece {
  y: number;
  rows: number;
  png: Blob;
  scanlines: Blob;
}

/** Filters and deflates the rows of a piece as they come. */
class PieceWriter {
  private readonly stride: number;
  private before: Uint8Array;
  private first = true;
  private readonly deflate = new CompressionStream("deflate");
  private readonly writer = this.deflate.writable.getWriter();
  private readonly packed: Promise<Bytes[]>;

  constructor(
    private readonly shape: Shape,
    private readonly y: number,
    private readonly colours: Colours,
  ) {
    this.stride = shape.width * shape.channels;
    this.before = new Uint8Array(this.stride);
    this.packed = collect(this.deflate.readable);
  }

  /** Samples of whole rows, as many channels as the shape has. */
  async write(samples: Uint8Array): Promise<void> {
    const { stride } = this;
    const most = Math.max(1, Math.floor(BLOCK / stride)) * stride;
    for (let at = 0; at < samples.length; at += most) {
      await this.writer.write(this.filtered(samples.subarray(at, at + most)));
    }
  }

  private filtered(samples: Uint8Array): Bytes {
    const { stride } = this;
    const rows = samples.length / stride;
    const out = new Uint8Array(rows * (stride + 1));
    for (let y = 0; y < rows; y++) {
      const row = samples.subarray(y * stride, (y + 1) * stride);
      const start = y * (stride + 1) + 1;
      // The first row does not look above it (Sub), so that pieces may stand one below the other.
      out[start - 1] = this.first ? 1 : 4;
      paeth(row, this.before, this.shape.channels, out.subarray(start, start + stride));
      this.before = row;
      this.first = false;
    }
    this.before = this.before.slice();
    return out;
  }

  async finish(): Promise<Piece> {
    await this.writer.close();
    const packed = await this.packed;
    const scanlines = new Blob(packed);
    const idat = new Uint8Array(8);
    new DataView(idat.buffer).setUint32(0, scanlines.size);
    idat.set([0x49, 0x44, 0x41, 0x54], 4);
    let crc = crc32(idat.subarray(4));
    for (const part of packed) crc = crc32(part, crc);
    const tail = new Uint8Array(4);
    new DataView(tail.buffer).setUint32(0, crc);
    const before = await head(this.shape, this.colours);
    const png = new Blob([...before, idat, scanlines, tail, chunk("IEND", new Uint8Array(0))], {
      type: "image/png",
    });
    return { y: this.y, rows: this.shape.height, png, scanlines };
  }
}

/** Rows [y, end) of a result as they come, in pieces of `high` rows, the last one lower. */
export class PiecesWriter {
  private readonly pieces: Promise<Piece>[] = [];
  private writer?: PieceWriter;
  private left = 0;

  constructor(
    private readonly shape: Shape,
    private readonly colours: Colours,
    private y: number,
    private readonly end: number,
    private readonly high: number,
  ) {}

  /** Samples of whole rows. */
  async write(samples: Uint8Array): Promise<void> {
    const stride = this.shape.width * this.shape.channels;
    while (samples.length) {
      if (!this.writer) {
        this.left = Math.min(this.high, this.end - this.y);
        this.writer = new PieceWriter({ ...this.shape, height: this.left }, this.y, this.colours);
      }
      const rows = Math.min(this.left, samples.length / stride);
      await this.writer.write(samples.subarray(0, rows * stride));
      samples = samples.subarray(rows * stride);
      this.y += rows;
      this.left -= rows;
      if (this.left) continue;
      this.pieces.push(this.writer.finish());
      this.writer = undefined;
    }
  }

  finish(): Promise<Piece[]> {
    return Promise.all(this.pieces);
  }
}

/** Filter type 4, Paeth, of the PNG specification; with nothing above it is Sub. */
function paeth(row: Uint8Array, above: Uint8Array, channels: number, out: Uint8Array): void {
  for (let i = 0; i < channels; i++) out[i] = row[i]! - above[i]!;
  for (let i = channels; i < row.length; i++) {
    out[i] = row[i]! - predict(row[i - channels]!, above[i]!, above[i - channels]!);
  }
}

function predict(left: number, up: number, corner: number): number {
  const toLeft = Math.abs(up - corner);
  const toUp = Math.abs(left - corner);
  const toCorner = Math.abs(left + up - 2 * corner);
  return toLeft <= toUp && toLeft <= toCorner ? left : toUp <= toCorner ? up : corner;
}

async function collect(stream: ReadableStream<Uint8Array>): Promise<Bytes[]> {
  const all: Bytes[] = [];
  for await (const part of parts(stream)) all.push(part);
  return all;
}

/** One PNG of all pieces: their scanlines, inflated and deflated anew, never held as pixels. */
export async function join(pieces: Piece[], shape: Shape, colours: Colours): Promise<Blob> {
  if (pieces.length === 1) return pieces[0]!.png;
  const deflate = new CompressionStream("deflate");
  const packed = (async () => {
    const chunks: Bytes[] = [];
    let waiting: Bytes[] = [];
    let size = 0;
    const flush = async () => {
      chunks.push(chunk("IDAT", new Uint8Array(await new Blob(waiting).arrayBuffer())));
      waiting = [];
      size = 0;
    };
    for await (const part of parts(deflate.readable)) {
      waiting.push(part);
      size += part.length;
      if (size >= BLOCK) await flush();
    }
    await flush();
    return chunks;
  })();
  for (const piece of pieces) {
    const inflate = new DecompressionStream("deflate");
    await piece.scanlines.stream().pipeThrough(inflate).pipeTo(deflate.writable, { preventClose: true });
  }
  await deflate.writable.close();
  const before = await head(shape, colours);
  return new Blob([...before, ...(await packed), chunk("IEND", new Uint8Array(0))], { type: "image/png" });
}

/** What the chunks of a PNG say. */
export interface Chunks {
  width: number;
  height: number;
  depth: number;
  colourType: number;
  interlaced: boolean;
  /** Whether it has alpha or a transparent colour. */
  clear: boolean;
  animated: boolean;
  turned: boolean;
  colours: Colours;
  palette?: Uint8Array;
  transparency?: Uint8Array;
  data: Bytes[];
}

const CHANNELS: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };

/** The chunks of a PNG file. Raises PageError where it is damaged or cut short. */
export async function walk(file: Bytes): Promise<Chunks> {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const damaged = new PageError("Damaged or cut short");
  const out: Partial<Chunks> & Pick<Chunks, "colours" | "data"> = { colours: { chunks: [] }, data: [] };
  let at = SIGNATURE.length;
  let ended = false;
  while (!ended && at + 12 <= file.length) {
    const length = view.getUint32(at);
    const end = at + 12 + length;
    if (end > file.length) throw damaged;
    const kind = String.fromCharCode(...file.subarray(at + 4, at + 8));
    const body = file.subarray(at + 8, end - 4);
    const sound = crc32(file.subarray(at + 4, end - 4)) === view.getUint32(end - 4);
    if (!sound && !(file[at + 4]! & 0x20)) throw damaged;
    if (kind === "IHDR" && length === 13) {
      out.width = view.getUint32(at + 8);
      out.height = view.getUint32(at + 12);
      [out.depth, out.colourType] = [body[8]!, body[9]!];
      out.interlaced = body[12] === 1;
      out.clear = out.colourType >= 4;
    } else if (kind === "IDAT") out.data.push(body);
    else if (kind === "IEND") ended = true;
    else if (sound) {
      if (KEPT.includes(kind)) out.colours.chunks.push(file.slice(at, end));
      else if (kind === "iCCP") out.colours.icc = await inflated(body);
      else if (kind === "PLTE") out.palette = body;
      else if (kind === "acTL") out.animated = true;
      else if (kind === "eXIf") out.turned = true;
      else if (kind === "tRNS") [out.transparency, out.clear] = [body, true];
    }
    at = end;
  }
  if (!ended || out.width === undefined || !out.data.length) throw damaged;
  return { animated: false, turned: false, ...out } as Chunks;
}

async function inflated(body: Bytes): Promise<Bytes | undefined> {
  const start = body.indexOf(0) + 2;
  try {
    return start > 1 ? await through(body.subarray(start), new DecompressionStream("deflate")) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * The pixels of a PNG as RGBA of 8 bits. A canvas multiplies colours by alpha and so loses some of
 * them; this does not. Interlaced files are not read. Raises PageError where the file is damaged.
 */
export async function pixels(png: Chunks): Promise<Uint8ClampedArray<ArrayBuffer>> {
  const { width, height, depth, colourType, palette, transparency } = png;
  const channels = CHANNELS[colourType] ?? 0;
  const stride = Math.ceil((width * channels * depth) / 8);
  const step = Math.max(1, (channels * depth) >> 3);
  const out = new Uint8ClampedArray(width * height * 4);
  // The one colour that is clear, of images without alpha.
  const key =
    transparency && colourType !== 3
      ? [0, 2, 4].map((i) => ((transparency[i] ?? 0) << 8) | (transparency[i + 1] ?? 0))
      : undefined;
  const top = 2 ** depth - 1;
  const sample = (row: Uint8Array, i: number): number => {
    if (depth === 8) return row[i]!;
    if (depth === 16) return (row[2 * i]! << 8) | row[2 * i + 1]!;
    return (row[(i * depth) >> 3]! >> (8 - depth - ((i * depth) & 7))) & top;
  };
  const to8 = (value: number): number => (depth === 16 ? value >> 8 : depth === 8 ? value : (value * 255) / top);

  function put(row: Uint8Array, y: number): void {
    if (colourType === 6 && depth === 8) return out.set(row, 4 * y * width);
    for (let x = 0, o = 4 * y * width; x < width; x++, o += 4) {
      const first = sample(row, x * channels);
      if (colourType === 3) {
        for (let c = 0; c < 3; c++) out[o + c] = palette?.[3 * first + c] ?? 0;
        out[o + 3] = transparency?.[first] ?? 255;
        continue;
      }
      const colour = channels > 2;
      const g = colour ? sample(row, x * channels + 1) : first;
      const b = colour ? sample(row, x * channels + 2) : first;
      out[o] = to8(first);
      out[o + 1] = to8(g);
      out[o + 2] = to8(b);
      if (colourType >= 4) out[o + 3] = to8(sample(row, x * channels + channels - 1));
      else out[o + 3] = key && first === key[0] && (!colour || (g === key[1] && b === key[2])) ? 0 : 255;
    }
  }

  let above = new Uint8Array(stride);
  let line = new Uint8Array(stride + 1);
  let filled = 0;
  let y = 0;
  try {
    const scanlines = new Blob(png.data).stream().pipeThrough(new DecompressionStream("deflate"));
    for await (const part of parts(scanlines)) {
      for (let at = 0; at < part.length && y < height; ) {
        const n = Math.min(part.length - at, line.length - filled);
        line.set(part.subarray(at, at + n), filled);
        [at, filled] = [at + n, filled + n];
        if (filled < line.length) continue;
        const row = line.subarray(1);
        unfilter(line[0]!, row, above, step);
        put(row, y++);
        above = row;
        line = new Uint8Array(stride + 1);
        filled = 0;
      }
    }
  } catch {
    y = -1;
  }
  if (y !== height) throw new PageError("Damaged or cut short");
  return out;
}

function unfilter(type: number, row: Uint8Array, above: Uint8Array, step: number): void {
  if (type > 4) throw new PageError("Damaged or cut short");
  for (let i = 0; i < row.length; i++) {
    const left = i < step ? 0 : row[i - step]!;
    const up = above[i]!;
    if (type === 1) row[i]! += left;
    else if (type === 2) row[i]! += up;
    else if (type === 3) row[i]! += (left + up) >> 1;
    else if (type === 4) row[i]! += predict(left, up, i < step ? 0 : above[i - step]!);
  }
}
