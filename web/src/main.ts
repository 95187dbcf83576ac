/** The page: a queue of images, one after another enlarged by a worker of its own. */
import "./style.css";
import { memory } from "./device";
import type { Format, Reply, Request, Result } from "./messages";
import { Viewer } from "./viewer";

type State = "waiting" | "running" | "done" | "failed" | "cancelled";

interface Settings {
  scale: number;
  net: string;
}

interface Item {
  file: File;
  state: State;
  row: HTMLLIElement;
  settings: Settings;
  /** Why it failed. */
  text: string;
  /** The share that is done, and when it began. */
  share: number;
  start: number;
  worker?: Worker;
  result?: Result;
}

const find = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const main = find("main");
const form = find<HTMLFormElement>("settings");
const netSelect = find<HTMLSelectElement>("net");
const formatSelect = find<HTMLSelectElement>("format");
const chooser = find<HTMLInputElement>("files");
const saveButton = find<HTMLButtonElement>("save");
const saveAll = find<HTMLButtonElement>("save-all");
const again = find<HTMLButtonElement>("again");
const progress = find<HTMLProgressElement>("progress");
const status = find("status");
const viewer = new Viewer(find("frame"), find<HTMLCanvasElement>("canvas"), find("divider"), find("percent"));

/** What `bitsr serve` says of its engine; empty elsewhere. */
const served = document.querySelector<HTMLMetaElement>('meta[name="bitsr-serve"]')!.content;
const native = served.startsWith("native");
const SUFFIX: Record<Format, string> = { png: "png", jpeg: "jpg", webp: "webp" };
const NAME: Record<Format, string> = { png: "PNG", jpeg: "JPEG", webp: "WebP" };

let items: Item[] = [];
let selected: Item | undefined;
let bitmapOf: Item | undefined;
let bitmap: ImageBitmap | undefined;

const settings = (): Settings => ({
  scale: Number(new FormData(form).get("scale")),
  net: netSelect.value,
});

function say(text: string): void {
  status.textContent = text;
}

/** Runs one request in a worker of its own, whose memory ends with it. */
function task(request: Request, onReply: (reply: Reply) => void): Worker {
  const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  const end = (reply: Reply) => {
    worker.terminate();
    onReply(reply);
  };
  worker.onmessage = ({ data }: MessageEvent<Reply>) => (data.kind === "progress" ? onReply(data) : end(data));
  worker.onerror = (event) => end({ kind: "failed", text: event.message || "The worker stopped: out of memory?" });
  worker.postMessage(request);
  return worker;
}

// The queue

function add(files: Iterable<File>): void {
  const added = [...files].map((file): Item => {
    const row = document.createElement("li");
    return { file, state: "waiting", row, settings: settings(), text: "", share: 0, start: 0 };
  });
  if (!added.length) return;
  for (const item of added) {
    build(item);
    items.push(item);
    find("items").append(item.row);
  }
  if (!selected || selected.state !== "running") select(added[0]!);
  say(added.length === 1 ? `${added[0]!.file.name} added` : `${added.length} images added`);
  next();
}

function build(item: Item): void {
  const { row, file } = item;
  const open = document.createElement("button");
  open.type = "button";
  open.className = "open";
  const picture = document.createElement("canvas");
  picture.setAttribute("aria-hidden", "true");
  const words = document.createElement("span");
  const [name, state] = [document.createElement("b"), document.createElement("small")];
  name.textContent = file.name;
  words.append(name, state);
  open.append(picture, words);
  open.addEventListener("click", () => select(item));
  const drop = document.createElement("button");
  drop.type = "button";
  drop.className = "remove";
  drop.textContent = "×";
  drop.setAttribute("aria-label", `Remove ${file.name}`);
  drop.addEventListener("click", () => remove(item));
  row.append(open, drop);
  void createImageBitmap(file, { resizeHeight: 96, resizeQuality: "medium" })
    .then((small) => {
      [picture.width, picture.height] = [small.width, small.height];
      picture.getContext("bitmaprenderer")!.transferFromImageBitmap(small);
    })
    .catch(() => picture.classList.add("none"));
}

function remove(item: Item): void {
  item.worker?.terminate();
  item.row.remove();
  const at = items.indexOf(item);
  items = items.filter((other) => other !== item);
  if (selected === item) select(items[Math.min(at, items.length - 1)]);
  (selected?.row ?? find("empty")).querySelector("button")!.focus();
  show();
  next();
}

function next(): void {
  if (items.some(({ state }) => state === "running")) return show();
  const item = items.find(({ state }) => state === "waiting");
  if (!item) return show();
  Object.assign(item, { state: "running", share: 0, start: performance.now(), settings: settings(), result: undefined });
  const { scale, net } = item.settings;
  const base = new URL("./", location.href).href;
  item.worker = task({ kind: "enlarge", file: item.file, scale, net, base, native, memory }, (reply) => {
    if (reply.kind === "progress") {
      item.share = reply.share;
      return show();
    }
    item.worker = undefined;
    if (reply.kind === "enlarged") {
      item.state = "done";
      item.result = reply.result;
      say(`${item.file.name} is enlarged`);
    } else if (reply.kind === "failed") {
      item.state = "failed";
      item.text = reply.text;
      say(`${item.file.name}: ${reply.text}`);
    }
    if (item === selected) void look(item);
    next();
  });
  if (item === selected) void look(item);
  show();
}

function cancel(item: Item): void {
  item.worker?.terminate();
  item.worker = undefined;
  item.state = "cancelled";
  say(`${item.file.name}: cancelled`);
  show();
  next();
}

// One image in sight

function select(item: Item | undefined): void {
  selected = item;
  void look(item);
  show();
}

async function look(item: Item | undefined): Promise<void> {
  if (bitmapOf !== item) {
    viewer.show(undefined, 1, undefined);
    [bitmapOf, bitmap] = [item, undefined];
    const made = await (item && createImageBitmap(item.file).catch(() => undefined));
    if (bitmapOf !== item) return made?.close();
    bitmap = made;
  }
  if (selected === item) viewer.show(bitmap, item?.settings.scale ?? 1, item?.result);
}

const size = ({ result }: Item) => (result ? `${result.shape.width} × ${result.shape.height}` : "");

function left(item: Item): string {
  const seconds = (performance.now() - item.start) / 1000;
  if (seconds < 2 || !item.share) return "";
  const rest = (seconds * (1 - item.share)) / item.share;
  return `, about ${rest < 90 ? `${Math.ceil(rest)} s` : `${Math.round(rest / 60)} min`} left`;
}

function words(item: Item): string {
  const percent = Math.floor(100 * item.share);
  return {
    waiting: "Waiting",
    running: percent ? `${percent} %` : "Starting",
    done: size(item),
    failed: item.text,
    cancelled: "Cancelled",
  }[item.state];
}

function show(): void {
  main.toggleAttribute("data-empty", !items.length);
  main.toggleAttribute("data-several", items.length > 1);
  for (const item of items) {
    item.row.dataset.state = item.state;
    item.row.style.setProperty("--share", `${100 * item.share}%`);
    item.row.querySelector("small")!.textContent = words(item);
    const open = item.row.querySelector("button")!;
    if (item === selected) open.setAttribute("aria-current", "true");
    else open.removeAttribute("aria-current");
  }
  saveAll.hidden = items.filter(({ state }) => state === "done").length < 2;
  const item = selected;
  if (!item) return;
  const { scale, net } = settings();
  const changed = scale !== item.settings.scale || net !== item.settings.net;
  find("name").textContent = item.file.name;
  find("running").hidden = item.state !== "running";
  progress.value = item.share;
  again.hidden = !(item.state === "failed" || item.state === "cancelled" || (item.state === "done" && changed));
  find("format-field").hidden = saveButton.hidden = item.state !== "done";
  const detail = find("detail");
  detail.classList.toggle("error", item.state === "failed");
  const { result } = item;
  if (result) {
    const why = result.why && ` (${result.why})`;
    detail.textContent = `${size(item)}, ${result.net}${why}, ${result.seconds.toFixed(1)} s`;
  } else detail.textContent = item.state === "running" ? `${words(item)}${left(item)}` : words(item);
  find("notes").replaceChildren(
    ...(result?.notes ?? []).map((text) => Object.assign(document.createElement("li"), { textContent: text })),
  );
}

// Files out

function save(item: Item): Promise<void> {
  const { result } = item;
  const format = formatSelect.value as Format;
  if (!result) return Promise.resolve();
  saveButton.disabled = saveAll.disabled = true;
  say(`Writing ${NAME[format]}`);
  return new Promise((resolve) => {
    task({ kind: "save", result, format }, (reply) => {
      saveButton.disabled = saveAll.disabled = false;
      if (reply.kind === "saved") {
        const name = `${item.file.name.replace(/\.[^.]*$/, "")}_x${item.settings.scale}.${SUFFIX[format]}`;
        download(reply.file, name);
        say(`${name} is saved`);
      } else if (reply.kind === "failed") {
        say(reply.text);
        if (item === selected) {
          find("detail").textContent = reply.text;
          find("detail").classList.add("error");
        }
      }
      resolve();
    });
  });
}

function download(file: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  // Browsers read the file after the click.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// Controls

find("choose").addEventListener("click", () => chooser.click());
chooser.addEventListener("change", () => {
  add(chooser.files ?? []);
  chooser.value = "";
});
find("cancel").addEventListener("click", () => selected && cancel(selected));
again.addEventListener("click", () => {
  if (!selected) return;
  Object.assign(selected, { state: "waiting", result: undefined, text: "", share: 0 });
  void look(selected);
  next();
});
saveButton.addEventListener("click", () => selected && void save(selected));
saveAll.addEventListener("click", async () => {
  for (const item of items) if (item.state === "done") await save(item);
});
find("clear").addEventListener("click", () => {
  for (const { worker, row } of items) {
    worker?.terminate();
    row.remove();
  }
  items = [];
  select(undefined);
  find("empty").querySelector("button")!.focus();
});
find("in").addEventListener("click", () => viewer.zoomBy(1));
find("out").addEventListener("click", () => viewer.zoomBy(-1));
find("fit").addEventListener("click", () => viewer.fit());
find("actual").addEventListener("click", () => viewer.actual());

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", () => {
  limit();
  remember();
  show();
});
formatSelect.addEventListener("change", remember);

/** There is no photo net for 3x. */
function limit(): void {
  const photo = netSelect.querySelector<HTMLOptionElement>('[value="bitsr-photo-m"]')!;
  photo.disabled = settings().scale === 3;
  if (photo.disabled && photo.selected) netSelect.value = "auto";
}

function remember(): void {
  try {
    localStorage.setItem("bitsr", JSON.stringify({ ...settings(), format: formatSelect.value }));
  } catch {
    // Settings are not kept where the browser keeps nothing.
  }
}

function recall(): void {
  try {
    const kept = JSON.parse(localStorage.getItem("bitsr") ?? "{}") as Record<string, unknown>;
    const scale = form.querySelector<HTMLInputElement>(`[name="scale"][value="${Number(kept.scale)}"]`);
    if (scale) scale.checked = true;
    for (const [select, value] of [[netSelect, kept.net], [formatSelect, kept.format]] as const) {
      if ([...select.options].some((option) => option.value === value)) select.value = value as string;
    }
  } catch {
    // As at the first visit.
  }
  limit();
}

let depth = 0;
const carriesFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
addEventListener("dragenter", (event) => {
  if (carriesFiles(event) && depth++ === 0) find("drop").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (carriesFiles(event) && --depth === 0) find("drop").classList.remove("over");
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  find("drop").classList.remove("over");
  add(event.dataTransfer?.files ?? []);
});
addEventListener("paste", (event) => add(event.clipboardData?.files ?? []));
find("empty").addEventListener("click", () => chooser.click());

recall();
show();
find("engine").textContent = native
  ? `Native engine: ${served.slice("native ".length)}.`
  : `Runs in this browser as WebAssembly${served ? "" : ", and without a connection once loaded"}.`;
if (!served && "serviceWorker" in navigator) void navigator.serviceWorker.register("./sw.js").catch(() => undefined);
