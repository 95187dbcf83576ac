/** What the page and its worker say to each other. */
import type { Colours, Piece, Shape } from "./png";

export type Format = "png" | "jpeg" | "webp";

/** An enlarged image, in pieces one below the other. */
export interface Result {
  shape: Shape;
  colours: Colours;
  pieces: Piece[];
  net: string;
  /** Why a photo net was chosen, or "". */
  why: string;
  notes: string[];
  seconds: number;
}

export type Request =
  | {
      kind: "enlarge";
      file: Blob;
      scale: number;
      /** A family of nets such as bitsr-m, or auto. */
      net: string;
      /** Address of the page, under which nets and the native engine lie. */
      base: string;
      native: boolean;
      /** Gigabytes of the device's memory. */
      memory: number;
    }
  | { kind: "save"; result: Result; format: Format };

export type Reply =
  | { kind: "progress"; share: number }
  | { kind: "enlarged"; result: Result }
  | { kind: "saved"; file: Blob }
  | { kind: "failed"; text: string };
