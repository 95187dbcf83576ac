/** Where an image is worked on: in a worker, or in the thread of the caller. */
import { type Port, startWorker } from "#platform";
import { asBitsrError, BitsrError } from "./errors.js";
import { Rows } from "./rows.js";

/** What a worker is told; it answers `begin` and `push`, one after another. */
export type Message =
  | { kind: "load"; module: WebAssembly.Module; net: Uint8Array }
  | { kind: "begin"; width: number; height: number; channels: number }
  | { kind: "push"; pixels: Uint8Array };
export type Answer = { rows: Uint8Array } | { error: string };

/** One image at a time: LR rows in, the SR rows that they complete out. */
export interface Lane {
  begin(width: number, height: number, channels: number): Promise<void>;
  push(pixels: Uint8Array): Promise<Uint8Array>;
  close(): void;
}

/** In the thread of the caller, which gets its turn between two pushes. */
export class HereLane implements Lane {
  #rows: Rows | undefined;

  constructor(
    readonly module: WebAssembly.Module,
    readonly net: Uint8Array,
  ) {}

  async begin(width: number, height: number, channels: number): Promise<void> {
    this.#rows = undefined; // its memory may go before the next one takes some
    this.#rows = await Rows.begin(this.module, this.net, width, height, channels);
  }
  async push(pixels: Uint8Array): Promise<Uint8Array> {
    await new Promise((resolve) => setTimeout(resolve));
    return this.#rows!.push(pixels);
  }
  close(): void {
    this.#rows = undefined;
  }
}

export class WorkerLane implements Lane {
  readonly #port: Port;
  #waits: { resolve(rows: Uint8Array): void; reject(error: BitsrError): void } | undefined;
  #dead: BitsrError | undefined;

  private constructor(port: Port) {
    this.#port = port;
    port.listen(
      (answer: Answer) => {
        const waits = this.#settle();
        if ("error" in answer) waits?.reject(new BitsrError(answer.error));
        else waits?.resolve(answer.rows);
      },
      (error) => this.#end(asBitsrError(error, "a worker failed")),
    );
  }

  static async start(module: WebAssembly.Module, net: Uint8Array): Promise<WorkerLane> {
    let port: Port;
    try {
      port = await startWorker();
    } catch (error) {
      throw asBitsrError(error, "no worker can be started here (workers: 0 needs none)");
    }
    port.post({ kind: "load", module, net }, []);
    return new WorkerLane(port);
  }

  async begin(width: number, height: number, channels: number): Promise<void> {
    await this.#ask({ kind: "begin", width, height, channels }, []);
  }
  async push(pixels: Uint8Array): Promise<Uint8Array> {
    const own = pixels.slice();
    return this.#ask({ kind: "push", pixels: own }, [own.buffer]);
  }
  close(): void {
    this.#end(new BitsrError("the upscaler is closed"));
  }

  #ask(message: Message, transfer: Transferable[]): Promise<Uint8Array> {
    if (this.#dead) return Promise.reject(this.#dead);
    return new Promise((resolve, reject) => {
      this.#waits = { resolve, reject };
      this.#port.busy(true);
      this.#port.post(message, transfer);
    });
  }
  #settle() {
    const waits = this.#waits;
    this.#waits = undefined;
    this.#port.busy(false);
    return waits;
  }
  #end(error: BitsrError): void {
    if (this.#dead) return;
    this.#dead = error;
    this.#settle()?.reject(error);
    this.#port.end();
  }
}

/** Lanes that take turns: made when they are first needed, `most` at once. */
export class Lanes {
  readonly #free: Lane[] = [];
  readonly #lanes = new Set<Lane>();
  readonly #queue: (() => void)[] = [];
  #taken = 0;
  #closed = false;

  constructor(
    readonly most: number,
    readonly make: () => Promise<Lane>,
  ) {}

  /** f with a lane of its own for as long as it runs; a lane that it fails on is not used again. */
  async use<T>(f: (lane: Lane) => Promise<T>): Promise<T> {
    const lane = await this.take();
    let done = false;
    try {
      const out = await f(lane);
      done = true;
      return out;
    } finally {
      this.give(lane, done);
    }
  }

  async take(): Promise<Lane> {
    while (this.#taken >= this.most && !this.#closed) {
      await new Promise<void>((resolve) => this.#queue.push(resolve));
    }
    this.#check();
    this.#taken++;
    const free = this.#free.pop();
    if (free) return free;
    try {
      const lane = await this.make();
      this.#lanes.add(lane);
      if (this.#closed) lane.close();
      return lane;
    } catch (error) {
      this.#next();
      throw error;
    }
  }

  /** Hand back a lane; good: whether the next image may have it. */
  give(lane: Lane, good: boolean): void {
    if (good && !this.#closed) {
      this.#free.push(lane);
    } else {
      this.#lanes.delete(lane);
      lane.close();
    }
    this.#next();
  }

  close(): void {
    this.#closed = true;
    for (const lane of this.#lanes) lane.close();
    for (const wake of this.#queue.splice(0)) wake();
  }

  #next(): void {
    this.#taken--;
    this.#queue.shift()?.();
  }
  #check(): void {
    if (this.#closed) throw new BitsrError("the upscaler is closed");
  }
}
