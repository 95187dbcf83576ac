/** Keeps the page for use without a connection: its files at once, further nets as they are used. */
export {};
declare const self: ServiceWorkerGlobalScope;
// Filled in by the build (vite.config.ts): what the page is made of, and a hash of all of it.
declare const __FILES__: string[];
declare const __VERSION__: string;

const CACHE = `bitsr-${__VERSION__}`;

// A new version waits until no page of the old one is open: their files are the old cache's.
self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(__FILES__)));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(names.filter((n) => n.startsWith("bitsr-") && n !== CACHE).map((n) => caches.delete(n))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || new URL(request.url).origin !== location.origin) return;
  event.respondWith(answer(request));
});

async function answer(request: Request): Promise<Response> {
  const cache = await caches.open(CACHE);
  const known = await cache.match(request, { ignoreSearch: true });
  if (known) return known;
  const response = await fetch(request);
  if (response.ok && request.url.endsWith(".bsr")) await cache.put(request, response.clone());
  return response;
}
