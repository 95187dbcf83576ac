/** What runs in a worker: one image at a time, as lanes.ts tells it. */
import { parent } from "#platform";
import { asBitsrError } from "./errors.js";
import type { Answer, Message } from "./lanes.js";
import { Rows } from "./rows.js";

const port = await parent();
let make: (width: number, height: number, channels: number) => Rows;
let rows: Rows | undefined;

function answer(message: Message): Uint8Array | undefined {
  switch (message.kind) {
    case "load":
      make = (width, height, channels) =>
        new Rows(message.module, message.net, width, height, channels);
      return undefined;
    case "begin":
      rows = undefined; // its memory may go before the next one takes some
      rows = make(message.width, message.height, message.channels);
      return new Uint8Array(0);
    case "push":
      return rows!.push(message.pixels);
  }
}

port.listen(
  (message: Message) => {
    let out: Answer;
    try {
      const made = answer(message);
      if (!made) return;
      out = { rows: made };
    } catch (error) {
      rows = undefined;
      out = { error: asBitsrError(error, "a worker failed").message };
    }
    port.post(out, "rows" in out ? [out.rows.buffer] : []);
  },
  () => {},
);
