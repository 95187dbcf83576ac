/** What runs in a worker: one image at a time, as lanes.ts tells it. */
import { parent } from "#platform";
import { asBitsrError } from "./errors.js";
import type { Answer, Message } from "./lanes.js";
import { Rows } from "./rows.js";

const port = parent();
let loaded: Extract<Message, { kind: "load" }>;
let rows: Rows | undefined;

async function answer(message: Exclude<Message, { kind: "load" }>): Promise<Uint8Array> {
  if (message.kind === "push") return rows!.push(message.pixels);
  rows = undefined; // its memory may go before the next one takes some
  const { width, height, channels } = message;
  rows = await Rows.begin(loaded.module, loaded.net, width, height, channels);
  return new Uint8Array(0);
}

port.listen(
  async (message: Message) => {
    if (message.kind === "load") {
      loaded = message;
      return;
    }
    let out: Answer;
    try {
      out = { rows: await answer(message) };
    } catch (error) {
      out = { error: asBitsrError(error, "a worker failed").message };
    }
    port.post(out, "rows" in out ? [out.rows.buffer] : []);
  },
  () => {},
);
