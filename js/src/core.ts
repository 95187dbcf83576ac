/** The core, csrc/include/bitsr.h, as WebAssembly. No other file knows its addresses. */
import { asBitsrError, BitsrError } from "./errors.js";

interface Exports {
  memory: WebAssembly.Memory;
  malloc(bytes: number): number;
  free(address: number): void;
  bitsr_model_open(bytes: number, n: number, isa: number, err: number, cap: number): number;
  bitsr_model_scale(model: number): number;
  bitsr_model_radius(model: number): number;
  bitsr_model_smooth(model: number): number;
  bitsr_stream_open(
    model: number, h: number, w: number, threads: number, pass: number, err: number, cap: number,
  ): number;
  bitsr_stream_ready(stream: number, n: number): number;
  bitsr_stream_push(
    stream: number, lr: number, n: number, out: number, outRows: number, err: number, cap: number,
  ): number;
  bitsr_luma(pixels: number, depth: number, channels: number, n: number, luma: number): number;
  bitsr_merge(
    lr: number, depth: number, channels: number, h: number, w: number, first: number, rows: number,
    scale: number, smooth: number, luma: number, y: number, n: number, out: number, err: number,
    cap: number,
  ): number;
  _initialize(): void;
}

const LINE = 256;

/**
 * A net in an instance of the core of its own. The core has no exceptions: what it refuses ends the
 * call by a BitsrError, and leaves the instance as it was in the middle of it. So an instance that has
 * failed is not to be used again; its memory goes with it.
 */
export class Core {
  readonly scale: number;
  /** LR pixels that an SR pixel sees to each side; infinite where it sees the whole image. */
  readonly radius: number;
  readonly #core: Exports;
  readonly #err: number;
  readonly #model: number;
  readonly #smooth: number;
  #stream = 0;
  #width = 0;

  /** Rejects with BitsrError where the bytes are no sound model. */
  static async open(module: WebAssembly.Module, net: Uint8Array): Promise<Core> {
    const fail = (text: number): never => {
      throw new BitsrError(lineAt(core.memory, text));
    };
    let core: Exports;
    try {
      // Not `new WebAssembly.Instance`: browsers refuse it in their main thread.
      const instance = await WebAssembly.instantiate(module, { bitsr: { fail } });
      core = instance.exports as unknown as Exports;
    } catch (error) {
      throw asBitsrError(error, "the core cannot be started");
    }
    return new Core(core, net);
  }

  private constructor(core: Exports, net: Uint8Array) {
    this.#core = core;
    guarded(() => core._initialize());
    this.#err = this.#take(LINE);
    const bytes = this.#put(net);
    this.#model = guarded(() =>
      this.#core.bitsr_model_open(bytes, net.length, 0, this.#err, LINE),
    );
    this.#core.free(bytes);
    this.scale = core.bitsr_model_scale(this.#model);
    this.#smooth = core.bitsr_model_smooth(this.#model);
    const radius = core.bitsr_model_radius(this.#model);
    this.radius = radius < 0 ? Infinity : radius;
  }

  /** Begin the only image of this instance, of height x width LR pixels. */
  begin(height: number, width: number): void {
    this.#width = width;
    this.#stream = guarded(() =>
      this.#core.bitsr_stream_open(this.#model, height, width, 1, 0, this.#err, LINE),
    );
  }

  /** Feed LR rows of luma; the SR rows that they complete. */
  push(lr: Int16Array): Int16Array {
    const n = lr.length / this.#width;
    const ready = this.#core.bitsr_stream_ready(this.#stream, n);
    const values = ready * this.#width * this.scale;
    const from = this.#put(lr), to = this.#take(2 * values);
    guarded(() => this.#core.bitsr_stream_push(this.#stream, from, n, to, ready, this.#err, LINE));
    const out = new Int16Array(this.#core.memory.buffer, to, values).slice();
    this.#core.free(from);
    this.#core.free(to);
    return out;
  }

  /** Luma of pixels of `channels` samples. */
  luma(pixels: Uint8Array, channels: number): Int16Array {
    const n = pixels.length / channels;
    const from = this.#put(pixels), to = this.#take(2 * n);
    this.#core.bitsr_luma(from, 8, channels, n, to);
    const out = new Int16Array(this.#core.memory.buffer, to, n).slice();
    this.#core.free(from);
    this.#core.free(to);
    return out;
  }

  /** SR pixels from row y on, a row for each of `luma`; lr: LR rows from row `first` of `height` on. */
  merge(
    lr: Uint8Array, channels: number, height: number, first: number, luma: Int16Array, y: number,
  ): Uint8Array {
    const rows = lr.length / (this.#width * channels), n = luma.length / (this.#width * this.scale);
    const pixels = this.#put(lr), values = this.#put(luma);
    const to = this.#take(luma.length * channels);
    const code = guarded(() =>
      this.#core.bitsr_merge(
        pixels, 8, channels, height, this.#width, first, rows, this.scale, this.#smooth, values, y, n, to,
        this.#err, LINE,
      ),
    );
    if (code < 0) throw new BitsrError(lineAt(this.#core.memory, this.#err));
    const out = new Uint8Array(this.#core.memory.buffer, to, luma.length * channels).slice();
    for (const address of [pixels, values, to]) this.#core.free(address);
    return out;
  }

  #take(bytes: number): number {
    const address = bytes < 2 ** 32 ? this.#core.malloc(bytes || 1) : 0; // whose argument wraps
    if (!address) throw new BitsrError("no memory");
    return address >>> 0;
  }

  #put(values: Uint8Array | Int16Array): number {
    const address = this.#take(values.byteLength);
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    new Uint8Array(this.#core.memory.buffer, address, bytes.length).set(bytes);
    return address;
  }
}

/** The text at an address, which ends within LINE bytes. */
function lineAt(memory: WebAssembly.Memory, address: number): string {
  const bytes = new Uint8Array(memory.buffer, address >>> 0, LINE);
  return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
}

/** f(), its errors as BitsrErrors: no trap of WebAssembly gets out. */
function guarded<T>(f: () => T): T {
  try {
    return f();
  } catch (error) {
    throw asBitsrError(error, "the core failed");
  }
}
