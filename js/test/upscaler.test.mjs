import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { BitsrError, load, nets } from "bitsr";

const NET = "bitsr-s-x2";

function noise(width, height, channels, seed = 1) {
  const data = new Uint8ClampedArray(width * height * channels);
  for (let i = 0; i < data.length; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    data[i] = ((seed >>> 16) & 511) - 128; // a good share at the ends of the range
  }
  return { width, height, data };
}

async function used(options, f, net = NET) {
  const up = await load(net, options);
  try {
    return await f(up);
  } finally {
    up.close();
  }
}

const refused = (pattern) => (error) =>
  error instanceof BitsrError && pattern.test(error.message) && !error.message.includes("\n");

test("workers that share an image give the bytes of one, and of none", async () => {
  for (const channels of [1, 2, 3, 4]) {
    const image = noise(19, 173, channels);
    const [none, one, three] = await Promise.all(
      [0, 1, 3].map((workers) => used({ workers }, (up) => up.upscale(image))),
    );
    assert.equal(none.width, 38);
    assert.equal(none.height, 346);
    assert.equal(none.data.length, 4 * image.data.length);
    assert.deepEqual(one.data, none.data);
    assert.deepEqual(three.data, none.data);
  }
});

test("rows give the bytes of the whole, whatever the strips", async () => {
  const image = noise(21, 67, 4);
  const { width, height, data } = image;
  await used({ workers: 1 }, async (up) => {
    const whole = await up.upscale(image);
    for (const n of [1, 7, 67]) {
      const strips = [];
      for (let i = 0; i < height; i += n) strips.push(data.subarray(i * width * 4, (i + n) * width * 4));
      const out = [];
      for await (const rows of up.rows(strips, { width, height, channels: 4 })) out.push(rows);
      assert.deepEqual(new Uint8Array(Buffer.concat(out)), new Uint8Array(whole.data));
    }
  });
});

test("the result is of the kind of the image, and the image stays as it was", async () => {
  await used({ workers: 0 }, async (up) => {
    const image = noise(5, 4, 3);
    const before = image.data.slice();
    assert.ok((await up.upscale(image)).data instanceof Uint8ClampedArray);
    assert.ok((await up.upscale({ ...image, data: new Uint8Array(image.data) })).data instanceof Uint8Array);
    assert.deepEqual(image.data, before);
  });
});

test("progress rises to the SR rows in all", async () => {
  for (const workers of [0, 3]) {
    const seen = [];
    await used({ workers }, (up) =>
      up.upscale(noise(700, 150, 1), { onProgress: (done, total) => seen.push([done, total]) }),
    );
    assert.ok(seen.length > 3);
    assert.deepEqual(seen.at(-1), [300, 300]);
    for (let i = 1; i < seen.length; i++) assert.ok(seen[i][0] > seen[i - 1][0]);
  }
});

test("a signal ends the work with its reason, and the next image is right", async () => {
  for (const workers of [0, 2]) {
    await used({ workers }, async (up) => {
      const stop = new AbortController(), reason = new Error("enough");
      const work = up.upscale(noise(700, 150, 1), {
        signal: stop.signal,
        onProgress: () => stop.abort(reason),
      });
      await assert.rejects(work, (error) => error === reason);
      await assert.rejects(up.upscale(noise(3, 3, 1), { signal: stop.signal }), (error) => error === reason);
      const image = noise(9, 9, 1);
      const right = await used({ workers: 0 }, (other) => other.upscale(image));
      assert.deepEqual((await up.upscale(image)).data, right.data);
    });
  }
});

test("images at the same time wait for each other", async () => {
  const images = [1, 2, 3, 4].map((seed) => noise(11, 13, 3, seed));
  await used({ workers: 2 }, async (up) => {
    const together = await Promise.all(images.map((image) => up.upscale(image)));
    for (const [i, image] of images.entries()) {
      assert.deepEqual(together[i].data, (await up.upscale(image)).data);
    }
  });
});

test("a consumer of rows may stop early", async () => {
  await used({ workers: 1 }, async (up) => {
    const image = noise(40, 90, 1);
    for await (const rows of up.rows([image.data], { width: 40, height: 90, channels: 1 })) {
      assert.ok(rows.length);
      break;
    }
    assert.equal((await up.upscale(image)).height, 180);
  });
});

test("a net may be a name, a URL, a path or bytes", async () => {
  const url = new URL(`../dist/nets/${NET}.bsr`, import.meta.url);
  const bytes = await readFile(url);
  const image = noise(7, 5, 3);
  const right = await used({ workers: 0 }, (up) => up.upscale(image));
  for (const [net, name] of [
    [NET, NET],
    [url, NET],
    [url.href, NET],
    [url.pathname, NET],
    [bytes, "unnamed"],
    [bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length), "unnamed"],
  ]) {
    await used({ workers: 0 }, async (up) => {
      assert.equal(up.name, name);
      assert.equal(up.scale, 2);
      assert.deepEqual((await up.upscale(image)).data, right.data);
    }, net);
  }
});

test("all nets of the package load", async () => {
  for (const name of nets) {
    await used({ workers: 0 }, (up) => assert.equal(up.scale, Number(name.at(-1))), name);
  }
});

test("what is wrong gets one line", async () => {
  const bytes = await readFile(new URL(`../dist/nets/${NET}.bsr`, import.meta.url));
  await assert.rejects(load("bitsr-q-x4"), refused(/^no net named bitsr-q-x4; there are: bitsr-s-x2, /));
  await assert.rejects(load("/nowhere/x.bsr"), refused(/nowhere.x.bsr cannot be read/));
  await assert.rejects(load("data:text/plain,hello/x"), refused(/not a .bsr file/));
  await assert.rejects(load(new Uint8Array(0)), refused(/not a .bsr file/));
  await assert.rejects(load(bytes.subarray(0, -1)), refused(/longer or shorter|outside the file/));
  await assert.rejects(load(NET, { workers: -1 }), refused(/workers must be/));
  await assert.rejects(load(NET, { wasmUrl: new URL(import.meta.url) }), refused(/cannot be compiled/));
  await used({ workers: 1 }, async (up) => {
    const { data } = noise(4, 4, 3);
    for (const image of [
      { width: 0, height: 4, data },
      { width: 4.5, height: 4, data },
      { width: 4, height: 5, data },
      { width: 4, height: 4, data: new Uint16Array(48) },
    ]) {
      await assert.rejects(up.upscale(image), refused(/./));
    }
    const wide = { width: 1 << 26, height: 1, data: new Uint8Array(1 << 26) };
    await assert.rejects(up.upscale(wide), refused(/too (wide|large)|no memory/));
    const all = async (strips, height) => {
      for await (const _ of up.rows(strips, { width: 4, height, channels: 3 }));
    };
    await assert.rejects(all([data], 3), refused(/more than 3 rows/));
    await assert.rejects(all([data], 5), refused(/only 4 of 5 rows/));
    await assert.rejects(all([data.subarray(1)], 4), refused(/no whole rows/));
    assert.equal((await up.upscale(noise(4, 4, 3))).width, 8); // it goes on
  });
  await used({ workers: 1 }, async (up) => {
    const work = up.upscale(noise(700, 300, 1));
    setTimeout(() => up.close(), 50);
    await assert.rejects(work, refused(/closed/));
    await assert.rejects(up.upscale(noise(4, 4, 1)), refused(/closed/));
  });
});
