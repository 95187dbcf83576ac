/** What enlarges rows: the WebAssembly core, or the native engine of `bitsr serve`. */
import { load } from "bitsr";
import { PageError } from "./errors";
import type { Source } from "./source";

/** Yields the samples of whole rows of the result, from top to bottom. */
export type Engine = (
  source: Source,
  net: string,
  scale: number,
  base: string,
) => AsyncGenerator<Uint8Array>;

/** The channels of a result out of RGBA: 1 grey, 2 grey and alpha, 3 RGB, 4 all. */
export function pick(rgba: Uint8ClampedArray, channels: number): Uint8Array {
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

async function bytesOf(net: string, base: string): Promise<Uint8Array> {
  const response = await fetch(new URL(`nets/${net}.bsr`, base)).catch(() => undefined);
  if (!response?.ok) throw new PageError(`${net} is not there; it has to be loaded once while online`);
  return new Uint8Array(await response.arrayBuffer());
}

export const native: Engine = async function* (source, net, scale, base) {
  const { width, height, channels } = source;
  const strip = 512;
  const samples: BlobPart[] = [];
  for (let y = 0; y < height; y += strip) {
    samples.push(pick(source.rows(y, Math.min(strip, height - y)), channels).slice());
  }
  const query = new URLSearchParams({ net, width: `${width}`, height: `${height}`, channels: `${channels}` });
  const response = await fetch(new URL(`native?${query}`, base), { method: "POST", body: new Blob(samples) });
  if (!response.ok) throw new PageError((await response.text()) || `the engine answers ${response.status}`);
  const stride = scale * width * channels;
  let rest = new Uint8Array(0);
  for await (const part of response.body! as ReadableStream<Uint8Array>) {
    const all = new Uint8Array(rest.length + part.length);
    all.set(rest);
    all.set(part, rest.length);
    const whole = all.length - (all.length % stride);
    if (whole) yield all.subarray(0, whole);
    rest = all.slice(whole);
  }
};

export const wasm: Engine = async function* (source, net, _scale, base) {
  const upscaler = await load(await bytesOf(net, base), { workers: navigator.hardwareConcurrency });
  const { width, height, channels } = source;
  function* strips() {
    for (let y = 0; y < height; y += 32) yield source.rows(y, Math.min(32, height - y));
  }
  try {
    for await (const rows of upscaler.rows(strips(), { width, height })) yield pick(rows, channels);
  } finally {
    upscaler.close();
  }
};
