import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";

const PUBLIC = new URL("public/", import.meta.url);
const ZOO = new URL("../src/bitsr/zoo/", import.meta.url);
/** Nets that the page offers, and of these the ones that it keeps from the first visit on. */
const OFFERED = /^bitsr-(s|m|l|photo-m)-x[234]\.bsr$/;
const KEPT = /^bitsr-(s|m|photo-m)-x[234]\.bsr$/;

/** Writes into the service worker what the page is made of, and a hash of all of it, nets included. */
function precache(): Plugin {
  return {
    name: "precache",
    enforce: "post",
    generateBundle(_, bundle) {
      const hash = createHash("sha256");
      const nets = readdirSync(ZOO).filter((name) => OFFERED.test(name)).sort();
      for (const name of nets) hash.update(readFileSync(new URL(name, ZOO)));
      const shown = readdirSync(PUBLIC).sort();
      for (const name of shown) hash.update(readFileSync(new URL(name, PUBLIC)));
      const built = Object.keys(bundle).filter((name) => name !== "sw.js").sort();
      for (const name of built) {
        const file = bundle[name]!;
        hash.update(file.type === "chunk" ? file.code : file.source);
      }
      const files = ["./", ...built, ...shown, ...nets.filter((name) => KEPT.test(name)).map((name) => `nets/${name}`)];
      const worker = bundle["sw.js"];
      if (worker?.type !== "chunk") throw new Error("no service worker in the bundle");
      worker.code = worker.code
        .replace("__FILES__", JSON.stringify(files))
        .replace("__VERSION__", JSON.stringify(hash.digest("hex").slice(0, 16)));
    },
  };
}

/** The package names its nets for bundlers to copy; the page has them in nets/ instead. */
function withoutNets(): Plugin {
  return {
    name: "without-nets",
    enforce: "pre",
    transform: (_, id) => (/[/\\]js[/\\]dist[/\\]nets\.js$/.test(id) ? "export const NETS = {};" : undefined),
  };
}

export default defineConfig({
  base: "./",
  plugins: [precache(), withoutNets()],
  worker: { format: "es", plugins: () => [withoutNets()] },
  build: {
    outDir: "../src/bitsr/serve/page",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: false,
    rollupOptions: {
      input: { index: "index.html", sw: "sw/sw.ts" },
      output: {
        entryFileNames: ({ name }) => (name === "sw" ? "sw.js" : "assets/[name]-[hash].js"),
      },
    },
  },
});
