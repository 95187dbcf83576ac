/** Runs images through the package for tests/slow/test_js.py: run.mjs JOBS, a JSON file of jobs beside its
 * raw samples. A job: net, width, height, in, out (files), workers, and strip: rows at a time through
 * rows(), 0: upscale(). */
import { readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { load } from "bitsr";

const folder = dirname(process.argv[2]);
for (const job of JSON.parse(await readFile(process.argv[2], "utf8"))) {
  const data = new Uint8Array(await readFile(join(folder, job.in)));
  const { width, height } = job, channels = data.length / (width * height);
  const up = await load(job.net, { workers: job.workers });
  let out;
  if (job.strip) {
    const n = job.strip * width * channels;
    const strips = Array.from({ length: Math.ceil(data.length / n) }, (_, i) => data.subarray(i * n, i * n + n));
    const rows = [];
    for await (const some of up.rows(strips, { width, height, channels })) rows.push(some);
    out = Buffer.concat(rows);
  } else {
    out = (await up.upscale({ width, height, data })).data;
  }
  await writeFile(join(folder, job.out), out);
  up.close();
}
