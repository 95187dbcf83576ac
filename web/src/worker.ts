/** One task of the page, away from its thread: an image enlarged, or a result written to a file. */
import { faults } from "./auto";
import { native, wasm } from "./engines";
import { PageError } from "./errors";
import type { Reply, Request, Result } from "./messages";
import { type Piece, PieceWriter, type Shape } from "./png";
import { write } from "./save";
import { decode } from "./source";

const MOST_PIXELS = 600e6;
/** A result of no more pixels is one piece. */
const WHOLE = 32e6;
const PIECE = 16e6;

const reply = (message: Reply) => postMessage(message);

onmessage = async ({ data }: MessageEvent<Request>) => {
  try {
    if (data.kind === "enlarge") reply({ kind: "enlarged", result: await enlarge(data) });
    else reply({ kind: "saved", file: await write(data.result, data.format) });
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    reply({ kind: "failed", text: text || "out of memory" });
  }
};

async function enlarge(task: Request & { kind: "enlarge" }): Promise<Result> {
  const start = performance.now();
  const file = new Uint8Array(await task.file.arrayBuffer());
  if (!file.length) throw new PageError("the file is empty");
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
    throw new PageError(`the result would have ${size} megapixels; ${MOST_PIXELS / 1e6} are the most`);
  }
  const auto = task.net === "auto";
  const why = auto && scale !== 3 ? faults(file, source) : "";
  const net = `${auto ? (why ? "bitsr-photo-m" : "bitsr-m") : task.net}-x${scale}`;
  const high = pixels <= WHOLE ? shape.height : Math.max(1, Math.floor(PIECE / shape.width));

  const pieces: Piece[] = [];
  let writer: PieceWriter | undefined;
  let y = 0;
  for await (let samples of (task.native ? native : wasm)(source, net, scale, task.base)) {
    const stride = shape.width * shape.channels;
    while (samples.length) {
      const rows = Math.min(high, shape.height - pieces.length * high);
      writer ??= new PieceWriter({ ...shape, height: rows }, pieces.length * high, source.colours);
      const n = Math.min(samples.length / stride, pieces.length * high + rows - y);
      await writer.write(samples.subarray(0, n * stride));
      samples = samples.subarray(n * stride);
      y += n;
      if (y === pieces.length * high + rows) {
        pieces.push(await writer.finish());
        writer = undefined;
      }
    }
    reply({ kind: "progress", done: y, total: shape.height });
  }
  if (y !== shape.height) throw new PageError("the engine stopped before the end");
  const seconds = (performance.now() - start) / 1000;
  return { shape, colours: source.colours, pieces, net, why, notes: source.notes, seconds };
}
