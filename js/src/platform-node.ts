/** What Node has of platform-web.ts. */
import { readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { type MessagePort, parentPort, type TransferListItem, Worker } from "node:worker_threads";
import { asBitsrError } from "./errors.js";
import { type Port, read as fetched } from "./platform-web.js";

export type { Port };

function portOf(to: Worker | MessagePort, busy: (on: boolean) => void, end: () => void): Port {
  return {
    post: (message, transfer) => to.postMessage(message, transfer as TransferListItem[]),
    listen(message, error) {
      to.on("message", message);
      to.on("error", error);
      to.on("exit", () => error("it ended"));
    },
    busy,
    end,
  };
}

export async function startWorker(): Promise<Port> {
  const worker = new Worker(new URL("./worker.js", import.meta.url));
  worker.unref(); // an idle one keeps no program from ending
  return portOf(
    worker,
    (on) => (on ? worker.ref() : worker.unref()),
    () => void worker.terminate(),
  );
}

export function parent(): Port {
  return portOf(parentPort!, () => {}, () => {});
}

export function processors(): number {
  return availableParallelism();
}

/** The bytes of a file, by its path or URL. */
export async function read(from: string | URL): Promise<Uint8Array> {
  const url = from instanceof URL ? from : URL.canParse(from) ? new URL(from) : undefined;
  if (url && url.protocol !== "file:") return fetched(url);
  try {
    return new Uint8Array(await readFile(url ?? from));
  } catch (error) {
    throw asBitsrError(error, `${from} cannot be read`);
  }
}
