/** What browsers and their workers have; platform-node.ts is the same for Node. */
import { asBitsrError, BitsrError } from "./errors.js";

/** The other end of a channel between a worker and the thread that started it. */
export interface Port {
  post(message: unknown, transfer: Transferable[]): void;
  listen(message: (data: any) => void, error: (error: unknown) => void): void;
  /** Whether an answer is waited for. */
  busy(on: boolean): void;
  end(): void;
}

function portOf(to: Worker | DedicatedWorkerGlobalScope, end: () => void): Port {
  return {
    post: (message, transfer) => to.postMessage(message, transfer),
    listen(message, error) {
      to.onmessage = (event: MessageEvent) => message(event.data);
      (to as Worker).onerror = (event) => {
        event.preventDefault();
        error(event.message || "it did not start");
      };
    },
    busy() {},
    end,
  };
}

export async function startWorker(): Promise<Port> {
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  return portOf(worker, () => worker.terminate());
}

interface DedicatedWorkerGlobalScope {
  postMessage(message: unknown, transfer: Transferable[]): void;
  onmessage: ((event: MessageEvent) => void) | null;
}
/** In a worker: the thread that started it. */
export function parent(): Port {
  return portOf(globalThis as unknown as DedicatedWorkerGlobalScope, () => {});
}

export function processors(): number {
  return navigator.hardwareConcurrency || 1;
}

/** The bytes of a file. Raises BitsrError. */
export async function read(from: string | URL): Promise<Uint8Array> {
  let response: Response;
  try {
    response = await fetch(from);
  } catch (error) {
    throw asBitsrError(error, `${from} cannot be read`);
  }
  if (!response.ok) throw new BitsrError(`${from} cannot be read: HTTP ${response.status}`);
  try {
    return new Uint8Array(await response.arrayBuffer());
  } catch (error) {
    throw asBitsrError(error, `${from} cannot be read`);
  }
}
