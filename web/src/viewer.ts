/** Two images of one scene under a divider, with zoom and pan, drawn in the screen's own pixels. */
import { memory } from "./device";
import type { Result } from "./messages";

/** Pieces are drawn where no more of their pixels are in sight, else the overview is; so many are kept. */
const MOST_PIXELS = 8e6 * memory;
const OVERVIEW = 8e6;
const STEP = 1.5;

interface Loaded {
  bitmap?: ImageBitmap;
  used: number;
}

export class Viewer {
  private readonly context: CanvasRenderingContext2D;
  private before?: ImageBitmap;
  private result?: Result;
  private overview?: OffscreenCanvas;
  private readonly loaded = new Map<number, Loaded>();
  /** Of the result, pixels. */
  private width = 1;
  private height = 1;
  /** Screen pixels a pixel of the result, and where its corner lies on the canvas. */
  private zoom = 1;
  private x = 0;
  private y = 0;
  /** Where the divider stands, as a share of the canvas's width. */
  private split = 0.5;
  private fitted = true;
  private clock = 0;
  private asked = false;
  private readonly pointers = new Map<number, { x: number; y: number }>();

  constructor(
    frame: HTMLElement,
    private readonly canvas: HTMLCanvasElement,
    private readonly divider: HTMLElement,
    private readonly label: HTMLElement,
  ) {
    const colorSpace = matchMedia("(color-gamut: p3)").matches ? "display-p3" : "srgb";
    this.context = canvas.getContext("2d", { colorSpace })!;
    new ResizeObserver(([entry]) => this.resize(entry!)).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"] as const) {
      canvas.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener("dblclick", (event) => {
      if (this.fitted) this.actual(this.at(event));
      else this.fit();
    });
    divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId));
    divider.addEventListener("pointermove", (event) => {
      if (divider.hasPointerCapture(event.pointerId)) this.divide(this.at(event).x / this.canvas.width);
    });
    divider.addEventListener("keydown", (event) => this.dividerKey(event));
    frame.addEventListener("keydown", (event) => this.key(event));
  }

  /**
   * Shows an image at the size of its result, and the result where there is one. The bitmap is the
   * viewer's from here on.
   */
  show(before: ImageBitmap | undefined, scale: number, result: Result | undefined): void {
    if (this.before !== before) this.before?.close();
    for (const { bitmap } of this.loaded.values()) bitmap?.close();
    this.loaded.clear();
    const [width, height] = [(before?.width ?? 1) * scale, (before?.height ?? 1) * scale];
    const same = this.before === before && this.width === width;
    Object.assign(this, { before, result, width, height });
    this.overview = undefined;
    this.divider.hidden = !result;
    this.divide(this.split);
    if (!same) this.fit();
    this.draw();
    if (result && result.pieces.length > 1) void this.survey(result);
  }

  fit(): void {
    const { canvas, width, height } = this;
    this.zoom = Math.min(canvas.width / width, canvas.height / height, Math.max(devicePixelRatio, 1));
    this.x = (canvas.width - width * this.zoom) / 2;
    this.y = (canvas.height - height * this.zoom) / 2;
    this.fitted = true;
    this.draw();
  }

  /** One pixel of the result on one pixel of the screen. */
  actual(at = this.middle()): void {
    this.zoomTo(1, at);
  }

  zoomBy(steps: number): void {
    this.zoomTo(this.zoom * STEP ** steps, this.middle());
  }

  private middle(): { x: number; y: number } {
    return { x: this.canvas.width / 2, y: this.canvas.height / 2 };
  }

  private at(event: MouseEvent): { x: number; y: number } {
    const box = this.canvas.getBoundingClientRect();
    const density = this.canvas.width / box.width;
    return { x: (event.clientX - box.left) * density, y: (event.clientY - box.top) * density };
  }

  private resize(entry: ResizeObserverEntry): void {
    const exact = entry.devicePixelContentBoxSize?.[0];
    const css = (entry.contentBoxSize as ResizeObserverSize[])[0]!;
    const pixels = (length: number, told = 0) => {
      const about = length * devicePixelRatio;
      return Math.max(1, Math.abs(told - about) < 1 ? told : Math.round(about));
    };
    this.canvas.width = pixels(css.inlineSize, exact?.inlineSize);
    this.canvas.height = pixels(css.blockSize, exact?.blockSize);
    this.divide(this.split);
    if (this.fitted) this.fit();
    else this.place();
  }

  private zoomTo(zoom: number, at: { x: number; y: number }): void {
    const { width, height } = this;
    const least = Math.min(this.canvas.width / width, this.canvas.height / height, 1);
    const next = Math.min(Math.max(zoom, least), 16 * devicePixelRatio);
    this.x = at.x - ((at.x - this.x) * next) / this.zoom;
    this.y = at.y - ((at.y - this.y) * next) / this.zoom;
    this.zoom = next;
    this.fitted = false;
    this.place();
  }

  /** Keeps the image in sight: centred where it is smaller than the canvas, else without gaps. */
  private place(): void {
    const { width, height } = this;
    const within = (at: number, room: number, length: number) =>
      length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, at));
    this.x = within(this.x, this.canvas.width, width * this.zoom);
    this.y = within(this.y, this.canvas.height, height * this.zoom);
    this.draw();
  }

  private pan(x: number, y: number): void {
    this.x += x;
    this.y += y;
    this.place();
  }

  private divide(split: number): void {
    this.split = Math.min(Math.max(split, 0), 1);
    const percent = Math.round(100 * this.split);
    this.divider.style.insetInlineStart = `${100 * this.split}%`;
    this.divider.setAttribute("aria-valuenow", `${percent}`);
    this.divider.setAttribute("aria-valuetext", `${percent} % before, ${100 - percent} % after`);
    this.draw();
  }

  private wheel(event: WheelEvent): void {
    event.preventDefault();
    this.zoomTo(this.zoom * 2 ** (-event.deltaY / (event.deltaMode ? 8 : 240)), this.at(event));
  }

  private down(event: PointerEvent): void {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.at(event));
  }

  private move(event: PointerEvent): void {
    const from = this.pointers.get(event.pointerId);
    if (!from) return;
    const to = this.at(event);
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, to);
    if (other) {
      const [was, is] = [from, to].map((p) => Math.hypot(p.x - other.x, p.y - other.y));
      if (was) this.zoomTo((this.zoom * is!) / was, other);
    } else if (this.fitted && this.result) this.divide(to.x / this.canvas.width);
    else this.pan(to.x - from.x, to.y - from.y);
  }

  private dividerKey(event: KeyboardEvent): void {
    const step = event.shiftKey ? 0.1 : 0.02;
    const to: Record<string, number> = {
      ArrowLeft: this.split - step,
      ArrowDown: this.split - step,
      ArrowRight: this.split + step,
      ArrowUp: this.split + step,
      PageDown: this.split - 0.1,
      PageUp: this.split + 0.1,
      Home: 0,
      End: 1,
    };
    if (!(event.key in to)) return;
    event.preventDefault();
    event.stopPropagation();
    this.divide(to[event.key]!);
  }

  private key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const far = 0.1 * this.canvas.width;
    const does: Record<string, () => void> = {
      ArrowLeft: () => this.pan(far, 0),
      ArrowRight: () => this.pan(-far, 0),
      ArrowUp: () => this.pan(0, far),
      ArrowDown: () => this.pan(0, -far),
      "+": () => this.zoomBy(1),
      "=": () => this.zoomBy(1),
      "-": () => this.zoomBy(-1),
      "0": () => this.fit(),
      "1": () => this.actual(),
    };
    if (!does[event.key]) return;
    event.preventDefault();
    does[event.key]!();
  }

  private draw(): void {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.paint();
    });
  }

  private paint(): void {
    const { context, canvas, zoom, width, height } = this;
    this.label.textContent = `${Math.round(100 * zoom)} %`;
    this.canvas.style.touchAction = this.fitted ? "pan-y" : "none";
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    const middle = this.result ? Math.round(this.split * canvas.width) : canvas.width;
    const [right, bottom] = [Math.round(this.x + width * zoom), Math.round(this.y + height * zoom)];
    const [left, top] = [Math.round(this.x), Math.round(this.y)];
    if (this.before) {
      this.clipped(0, middle, () => {
        context.imageSmoothingEnabled = true;
        context.drawImage(this.before!, left, top, right - left, bottom - top);
      });
    }
    if (!this.result) return;
    const { result } = this;
    this.clipped(middle, canvas.width, () => {
      // From two screen pixels a pixel on, pixels are shown as they are.
      context.imageSmoothingEnabled = zoom < 2;
      const seen = result.pieces.filter(
        ({ y, rows }) => this.y + (y + rows) * zoom > 0 && this.y + y * zoom < canvas.height,
      );
      const pixels = seen.reduce((n, { rows }) => n + rows * width, 0);
      if (this.overview) context.drawImage(this.overview, left, top, right - left, bottom - top);
      if (pixels > MOST_PIXELS) return;
      for (const piece of seen) {
        const bitmap = this.bitmap(result, result.pieces.indexOf(piece));
        const [from, to] = [piece.y, piece.y + piece.rows].map((y) => Math.round(this.y + y * zoom));
        if (bitmap) context.drawImage(bitmap, left, from!, right - left, to! - from!);
      }
    });
  }

  private clipped(from: number, to: number, draw: () => void): void {
    const { context, canvas } = this;
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, canvas.height);
    context.clip();
    draw();
    context.restore();
  }

  /** The bitmap of a piece, where it is there; else it is made, and drawn when it is. */
  private bitmap(result: Result, index: number): ImageBitmap | undefined {
    const known = this.loaded.get(index);
    if (known) {
      known.used = ++this.clock;
      return known.bitmap;
    }
    const entry: Loaded = { used: ++this.clock };
    this.loaded.set(index, entry);
    void createImageBitmap(result.pieces[index]!.png)
      .then((bitmap) => {
        if (this.loaded.get(index) !== entry) return bitmap.close();
        entry.bitmap = bitmap;
        this.forget();
        this.draw();
      })
      .catch(() => undefined);
    return undefined;
  }

  /** Closes the bitmaps that were not drawn for the longest time. */
  private forget(): void {
    const all = [...this.loaded].sort((a, b) => b[1].used - a[1].used);
    let pixels = 0;
    for (const [index, { bitmap }] of all) {
      pixels += bitmap ? bitmap.width * bitmap.height : 0;
      if (pixels <= MOST_PIXELS) continue;
      bitmap?.close();
      this.loaded.delete(index);
    }
  }

  /** Draws a small version of a large result, piece by piece. */
  private async survey(result: Result): Promise<void> {
    const { width, height } = result.shape;
    const share = Math.min(1, Math.sqrt(OVERVIEW / (width * height)));
    const overview = new OffscreenCanvas(Math.ceil(width * share), Math.ceil(height * share));
    const context = overview.getContext("2d", {
      colorSpace: this.context.getContextAttributes().colorSpace,
    }) as OffscreenCanvasRenderingContext2D;
    context.imageSmoothingQuality = "high";
    this.overview = overview;
    for (const piece of result.pieces) {
      const bitmap = await createImageBitmap(piece.png);
      if (this.result !== result) return bitmap.close();
      const [from, to] = [piece.y, piece.y + piece.rows].map((y) => Math.round((y * overview.height) / height));
      context.drawImage(bitmap, 0, from!, overview.width, to! - from!);
      bitmap.close();
      this.draw();
    }
  }
}
