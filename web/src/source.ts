/** An image file as rows of RGBA, upright, in the colours of its own profile. */
import { facts, kindOf, model } from "./container";
import { PageError } from "./errors";
import { type Colours, PiecesWriter, pixels, walk } from "./png";

const STRIP = 256;

export interface Source {
  width: number;
  height: number;
  /** Channels of the result: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha. */
  channels: number;
  colours: Colours;
  /** Sentences that a user should know. */
  notes: string[];
  /** RGBA of rows [y, y + n). */
  rows(y: number, n: number): Uint8ClampedArray<ArrayBuffer>;
  /** The same with as many channels as the result has. */
  samples(y: number, n: number): Uint8Array<ArrayBuffer>;
}

/** Decodes an image file. Raises PageError for a file that cannot be read. */
export async function decode(blob: Blob, file: Uint8Array<ArrayBuffer>): Promise<Source> {
  const png = kindOf(file) === "png" ? await walk(file) : undefined;
  const { colours, notes } = png ? { colours: png.colours, notes: [] as string[] } : facts(file);
  if (png?.animated) notes.push("An animation: its first frame is taken.");
  if (png?.depth === 16) notes.push("16 bits a sample are reduced to 8.");
  if (colours.icc && !["RGB ", "GRAY"].includes(model(colours.icc))) {
    notes.push("Its colours are converted to sRGB.");
    colours.icc = undefined;
  } else if (colours.icc && !(await keepsSamples(colours.icc))) {
    notes.push("This browser converts colours to sRGB: wide-gamut ones are lost.");
    colours.icc = undefined;
  }
  let rows: Source["rows"];
  let [width, height] = [png?.width ?? 0, png?.height ?? 0];
  if (png?.clear && !png.interlaced && !png.turned) {
    const all = await pixels(png);
    rows = (y, n) => all.subarray(4 * y * width, 4 * (y + n) * width);
  } else {
    const raw = colours.icc || png ? "none" : "default";
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: raw, premultiplyAlpha: "none" }).catch(() => {
      throw new PageError("This browser cannot read it: it is damaged, or of a format that the browser lacks");
    });
    ({ width, height } = bitmap);
    const canvas = new OffscreenCanvas(width, STRIP);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (!context) throw new PageError(`Its ${width} pixels are too wide for this browser`);
    context.globalCompositeOperation = "copy";
    const read = (y: number, n: number) => {
      context.drawImage(bitmap, 0, -y);
      return context.getImageData(0, 0, width, n).data as Uint8ClampedArray<ArrayBuffer>;
    };
    rows = (y, n) => {
      if (n <= STRIP) return read(y, n);
      const out = new Uint8ClampedArray(4 * width * n);
      for (let i = 0; i < n; i += STRIP) out.set(read(y + i, Math.min(STRIP, n - i)), 4 * width * i);
      return out;
    };
  }
  const { grey, opaque } = look(rows, height);
  const greyProfile = colours.icc && model(colours.icc) === "GRAY";
  if (greyProfile && !grey) {
    notes.push("An ICC profile of another colour model is dropped.");
    colours.icc = undefined;
  }
  const narrow = grey && (!colours.icc || greyProfile);
  const channels = (narrow ? 1 : 3) + (opaque ? 0 : 1);
  const samples = (y: number, n: number) => pick(rows(y, n), channels);
  return { width, height, channels, colours, notes, rows, samples };
}

/** As many channels as are wanted out of RGBA. */
function pick(rgba: Uint8ClampedArray<ArrayBuffer>, channels: number): Uint8Array<ArrayBuffer> {
  if (channels === 4) return new Uint8Array(rgba.buffer, rgba.byteOffset, rgba.length);
  const out = new Uint8Array((rgba.length / 4) * channels);
  for (let i = 0, o = 0; i < rgba.length; i += 4, o += channels) {
    out[o] = rgba[i]!;
    if (channels === 3) {
      out[o + 1] = rgba[i + 1]!;
      out[o + 2] = rgba[i + 2]!;
    } else if (channels === 2) out[o + 1] = rgba[i + 3]!;
  }
  return out;
}

/** Whether all pixels are grey, and whether all are opaque. */
function look(rows: Source["rows"], height: number): { grey: boolean; opaque: boolean } {
  let [grey, opaque] = [true, true];
  for (let y = 0; y < height && (grey || opaque); y += STRIP) {
    const rgba = rows(y, Math.min(STRIP, height - y));
    for (let i = 0; i < rgba.length; i += 4) {
      grey &&= rgba[i] === rgba[i + 1] && rgba[i] === rgba[i + 2];
      opaque &&= rgba[i + 3] === 255;
    }
  }
  return { grey, opaque };
}

/** Whether this browser can give samples as they are stored, without the profile applied. */
async function keepsSamples(icc: Uint8Array<ArrayBuffer>): Promise<boolean> {
  if (model(icc) === "GRAY") return true;
  const stored = [200, 30, 90];
  const writer = new PiecesWriter({ width: 1, height: 1, channels: 3 }, { icc, chunks: [] }, 0, 1, 1);
  await writer.write(new Uint8Array(stored));
  const [pixel] = await writer.finish();
  const bitmap = await createImageBitmap(pixel!.png, { colorSpaceConversion: "none" });
  const context = new OffscreenCanvas(1, 1).getContext("2d")!;
  context.drawImage(bitmap, 0, 0);
  const read = context.getImageData(0, 0, 1, 1).data;
  return stored.every((value, i) => read[i] === value);
}
