/** Results as files. */
import { model, withProfile } from "./container";
import { PageError } from "./errors";
import type { Format, Result } from "./messages";
import { join } from "./png";

const QUALITY = 0.95;
/** The longest side that a format can have, and the most pixels of a canvas in today's browsers. */
const LONGEST = { jpeg: 65535, webp: 16383 };
const MOST_PIXELS = 2 ** 28;

/** A result as PNG, whatever its size, or through a canvas as JPEG or WebP. */
export async function write(result: Result, format: Format): Promise<Blob> {
  const { shape, pieces, colours } = result;
  if (format === "png") return join(pieces, shape, colours);
  const { width, height } = shape;
  const name = { jpeg: "JPEG", webp: "WebP" }[format];
  const tooLarge = new PageError(`${width} x ${height} pixels are too large for ${name} here; PNG has no limit`);
  if (Math.max(width, height) > LONGEST[format] || width * height > MOST_PIXELS) throw tooLarge;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { alpha: format === "webp" && shape.channels % 2 === 0 });
  if (!context) throw tooLarge;
  if (format === "jpeg") {
    // JPEG has no transparency: what is clear is laid over white.
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
  }
  // The samples as they are beside an RGB profile; what has no place in the format becomes sRGB.
  const icc = colours.icc && model(colours.icc) === "RGB " ? colours.icc : undefined;
  for (const piece of pieces) {
    const bitmap = await createImageBitmap(piece.png, { colorSpaceConversion: icc ? "none" : "default" });
    context.drawImage(bitmap, 0, piece.y);
    bitmap.close();
  }
  const type = `image/${format}`;
  const file = await canvas.convertToBlob({ type, quality: QUALITY }).catch(() => {
    throw tooLarge;
  });
  if (file.type !== type) throw new PageError(`This browser does not write ${name}, but PNG and JPEG`);
  return icc ? withProfile(file, icc) : file;
}
