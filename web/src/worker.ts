/** One task of the page, away from its thread: an image enlarged, or a result written to a file. */
import { faults } from "./auto";
import { native, wasm } from "./engines";
import { PageError } from "./errors";
import type { Reply, Request, Result } from "./messages";
import type { Shape } from "./png";
import { write } from "./save";
import { decode } from "./source";

/** Of a result: far more than a screen, and what a tab bears. */
const MOST_PIXELS = 600e6;

const reply = (message: Reply) => postMessage(message);

onmessage = async ({ data }: MessageEvent<Request>) => {
  try {
    if (data.kind === "enlarge") reply({ kind: "enlarged", result: await enlarge(data) });
    else reply({ kind: "saved", file: await write(data.result, data.format) });
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    reply({ kind: "failed", text: text || "Out of memory" });
  }
};

async function enlarge(task: Request & { kind: "enlarge" }): Promise<Result> {
  const start = performance.now();
  const file = new Uint8Array(await task.file.arrayBuffer());
  if (!file.length) throw new PageError("The file is empty");
  const source = await decode(task.file, file);
  const { scale } = task;
  const shape: Shape = {
    width: scale * source.width,
    height: scale * source.height,
    channels: source.channels,
  };
  const pixels = shape.width * shape.height;
  if (pixels > MOST_PIXELS) {
    const size = Math.round(pixels / 1e6);
    throw new PageError(`The result would have ${size} megapixels; ${MOST_PIXELS / 1e6} are the most`);
  }
  const auto = task.net === "auto";
  const why = auto && scale !== 3 ? faults(file, source) : "";
  const net = `${auto ? (why ? "bitsr-photo-m" : "bitsr-m") : task.net}-x${scale}`;
  const progress = (share: number) => reply({ kind: "progress", share });
  const { base, memory } = task;
  const pieces = await (task.native ? native : wasm)({ source, net, scale, base, memory, progress });
  const seconds = (performance.now() - start) / 1000;
  return { shape, colours: source.colours, pieces, net, why, notes: source.notes, seconds };
}
