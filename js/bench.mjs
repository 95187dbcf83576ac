/** One net on noise for bench/wasm.py: bench.mjs NET HEIGHT WIDTH. Each line of standard input is a run,
 * answered by its seconds of CPU time. */
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { Core } from "./dist/core.js";

const [path, height, width] = process.argv.slice(2);
const module = await WebAssembly.compile(readFileSync(new URL("./dist/bitsr.wasm", import.meta.url)));
const net = new Uint8Array(readFileSync(path));
const lr = new Int16Array(height * width).map((_, i) => (Math.imul(i, 2654435761) >>> 16) % 32641 - 16320);
for await (const _ of createInterface({ input: process.stdin })) {
  const core = await Core.open(module, net);
  core.begin(Number(height), Number(width));
  const start = process.cpuUsage();
  core.push(lr);
  const { user, system } = process.cpuUsage(start);
  console.log((user + system) / 1e6);
}
