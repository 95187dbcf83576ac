/** What the containers of images say beside their pixels: ICC profiles, compression, frames. */
import type { Colours } from "./png";

type Bytes = Uint8Array<ArrayBuffer>;

const ICC_MARKER = "ICC_PROFILE\0";
const ICC_MOST = 65519;
/** Sum of the luma quantisation table in Annex K of the JPEG standard (ITU-T T.81), quality 50. */
const STANDARD_SUM = 3688;

const text = (data: Uint8Array, at: number, n: number): string => String.fromCharCode(...data.subarray(at, at + n));

function concat(...parts: Uint8Array[]): Bytes {
  const out = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const ascii = (s: string): Bytes => new TextEncoder().encode(s) as Bytes;

/** Format of a file by its first bytes. */
export function kindOf(file: Uint8Array): "png" | "jpeg" | "webp" | "gif" | "isobmff" | "other" {
  if (text(file, 1, 3) === "PNG" && file[0] === 0x89) return "png";
  if (file[0] === 0xff && file[1] === 0xd8) return "jpeg";
  if (text(file, 0, 4) === "RIFF" && text(file, 8, 4) === "WEBP") return "webp";
  if (text(file, 0, 4) === "GIF8") return "gif";
  if (text(file, 4, 4) === "ftyp") return "isobmff";
  return "other";
}

/** Marker and body of the segments of a JPEG before its first scan. */
function* segments(file: Bytes): Generator<[number, Bytes]> {
  let at = 2;
  while (at + 4 <= file.length && file[at] === 0xff && file[at + 1] !== 0xda) {
    if (file[at + 1] === 0xff) {
      at++;
      continue;
    }
    const length = (file[at + 2]! << 8) | file[at + 3]!;
    yield [file[at + 1]!, file.subarray(at + 4, at + 2 + length)];
    at += 2 + length;
  }
}

/** Kind and body of the chunks of a RIFF file. */
function* riff(file: Bytes): Generator<[string, Bytes]> {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  for (let at = 12; at + 8 <= file.length; ) {
    const length = view.getUint32(at + 4, true);
    yield [text(file, at, 4), file.subarray(at + 8, at + 8 + length)];
    at += 8 + length + (length & 1);
  }
}

/** Quality, 1 to 100, of a JPEG by its first quantisation table, as libjpeg scales the standard one. */
export function jpegQuality(file: Bytes): number | undefined {
  for (const [marker, body] of segments(file)) {
    if (marker !== 0xdb || (body[0]! & 15) !== 0) continue;
    const wide = body[0]! >> 4 !== 0;
    if (body.length < (wide ? 129 : 65)) return undefined;
    let sum = 0;
    for (let i = 0; i < 64; i++) sum += wide ? (body[1 + 2 * i]! << 8) | body[2 + 2 * i]! : body[1 + i]!;
    const percent = (100 * sum) / STANDARD_SUM;
    return Math.round(Math.min(Math.max(percent <= 100 ? 100 - percent / 2 : 5000 / percent, 1), 100));
  }
  return undefined;
}

/** The quantiser index, 0 to 127, of a lossy WebP's first frame (RFC 6386, section 9.6). */
export function webpQuantiser(file: Bytes): number | undefined {
  if (kindOf(file) !== "webp") return undefined;
  for (const [kind, body] of riff(file)) {
    const frame = kind === "VP8 " ? body : kind === "ANMF" && text(body, 16, 4) === "VP8 " ? body.subarray(24) : null;
    if (!frame) continue;
    if (frame[3] !== 0x9d || frame[4] !== 0x01 || frame[5] !== 0x2a) return undefined;
    const number = boolDecoder(frame.subarray(10));
    const optional = (size: number, count: number): void => {
      for (let i = 0; i < count; i++) if (number(1)) number(size);
    };
    number(2); // colour space, clamping
    if (number(1)) {
      const [newMap, newData] = [number(1), number(1)];
      if (newData) {
        number(1);
        optional(8, 4);
        optional(7, 4);
      }
      if (newMap) optional(8, 3);
    }
    number(10); // the loop filter
    if (number(1) && number(1)) optional(7, 8);
    number(2); // partitions
    return number(7);
  }
  return undefined;
}

/** Numbers of so many bits of even odds from the arithmetic coder of VP8 (RFC 6386, section 7). */
function boolDecoder(data: Bytes): (size: number) => number {
  let at = 2;
  let value = ((data[0] ?? 0) << 8) | (data[1] ?? 0);
  let [range, shifted] = [255, 0];
  const bit = (): number => {
    const split = (range + 1) >> 1;
    const one = value >= split << 8;
    if (one) value -= split << 8;
    range = one ? range - split : split;
    while (range < 128) {
      [value, range] = [value << 1, range << 1];
      if (++shifted === 8) {
        shifted = 0;
        value |= data[at++] ?? 0;
      }
    }
    return one ? 1 : 0;
  };
  return (size) => {
    let out = 0;
    for (let i = 0; i < size; i++) out = (out << 1) | bit();
    return out;
  };
}

/** ICC profile and frames of a file that is no PNG, which `png.walk` reads. */
export function facts(file: Bytes): { colours: Colours; notes: string[] } {
  const notes: string[] = [];
  let icc: Bytes | undefined;
  const kind = kindOf(file);
  const first = "An animation: its first frame is taken.";
  if (kind === "jpeg") {
    const parts = [...segments(file)]
      .filter(([marker, body]) => marker === 0xe2 && text(body, 0, 12) === ICC_MARKER)
      .sort((a, b) => a[1][12]! - b[1][12]!);
    if (parts.length) icc = concat(...parts.map(([, body]) => body.subarray(14)));
  } else if (kind === "webp") {
    for (const [name, body] of riff(file)) {
      if (name === "ICCP") icc = body.slice();
      if (name === "ANIM") notes.push(first);
    }
  } else if (kind === "gif" && find(file, "NETSCAPE2.0") >= 0) notes.push(first);
  else if (kind === "isobmff") {
    const at = find(file, "colrprof");
    if (at >= 4) icc = file.slice(at + 8, at - 4 + new DataView(file.buffer).getUint32(at - 4));
    else if (wideNclx(file)) notes.push("Its colours are converted to sRGB: wide-gamut ones are lost.");
  }
  return { colours: { icc, chunks: [] }, notes };
}

/** Whether an AVIF or HEIC names primaries other than those of sRGB (1) or none (2). */
function wideNclx(file: Bytes): boolean {
  const at = find(file, "colrnclx");
  return at >= 0 && ![1, 2].includes((file[at + 8]! << 8) | file[at + 9]!);
}

/** Where a word first stands in the head of a file, or -1. */
function find(file: Bytes, word: string): number {
  const wanted = ascii(word);
  const end = Math.min(file.length, 1 << 16) - wanted.length;
  for (let at = 0; at <= end; at++) if (wanted.every((byte, i) => file[at + i] === byte)) return at;
  return -1;
}

/** The colour model that an ICC profile is of: "RGB ", "GRAY", "CMYK" and others. */
export const model = (icc: Bytes): string => text(icc, 16, 4);

/** A JPEG or WebP with an ICC profile laid into it, in place of any that is there. */
export async function withProfile(file: Blob, icc: Bytes): Promise<Blob> {
  const data = new Uint8Array(await file.arrayBuffer()) as Bytes;
  const parts = file.type === "image/jpeg" ? jpegWith(data, icc) : webpWith(data, icc);
  return new Blob(parts, { type: file.type });
}

function jpegWith(file: Bytes, icc: Bytes): Bytes[] {
  const out: Bytes[] = [file.subarray(0, 2)];
  let at = 2;
  const segment = (marker: number, body: Bytes) =>
    concat(new Uint8Array([0xff, marker, (body.length + 2) >> 8, (body.length + 2) & 255]), body);
  for (const [marker, body] of segments(file)) {
    if (marker === 0xe0) out.push(segment(marker, body));
    if (marker === 0xe0 || marker === 0xe2) at = body.byteOffset + body.length;
  }
  const count = Math.ceil(icc.length / ICC_MOST);
  for (let i = 0; i < count; i++) {
    const part = icc.subarray(i * ICC_MOST, (i + 1) * ICC_MOST);
    out.push(segment(0xe2, concat(ascii(ICC_MARKER), new Uint8Array([i + 1, count]), part)));
  }
  return [...out, file.subarray(at)];
}

function webpWith(file: Bytes, icc: Bytes): Bytes[] {
  const chunk = (kind: string, body: Bytes): Bytes => {
    const out = new Uint8Array(8 + body.length + (body.length & 1));
    out.set(ascii(kind));
    new DataView(out.buffer).setUint32(4, body.length, true);
    out.set(body, 8);
    return out;
  };
  const chunks = [...riff(file)].filter(([kind]) => kind !== "ICCP");
  let extended = chunks.find(([kind]) => kind === "VP8X")?.[1].slice();
  if (!extended) {
    const [kind, body] = chunks[0]!;
    extended = new Uint8Array(10);
    const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
    // The two codecs: lossy frames have 14 bits of width and height, lossless ones the same less one.
    const lossless = kind === "VP8L";
    const bits = lossless ? view.getUint32(1, true) : 0;
    const width = lossless ? bits & 0x3fff : (view.getUint16(6, true) & 0x3fff) - 1;
    const height = lossless ? (bits >> 14) & 0x3fff : (view.getUint16(8, true) & 0x3fff) - 1;
    extended[0] = lossless && bits & (1 << 28) ? 0x10 : 0;
    extended.set([width & 255, width >> 8, 0, height & 255, height >> 8, 0], 4);
  }
  extended[0]! |= 0x20;
  const body = [
    chunk("VP8X", extended),
    chunk("ICCP", icc),
    ...chunks.filter(([kind]) => kind !== "VP8X").map(([kind, data]) => chunk(kind, data)),
  ];
  const size = body.reduce((n, part) => n + part.length, 4);
  const head = concat(ascii("RIFF"), new Uint8Array(4), ascii("WEBP"));
  new DataView(head.buffer).setUint32(4, size, true);
  return [head, ...body];
}
