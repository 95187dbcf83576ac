/** The nets that come with the package. build.py copies them; each is named for bundlers to find it. */
export const NETS = {
  "bitsr-s-x2": new URL("./nets/bitsr-s-x2.bsr", import.meta.url),
  "bitsr-s-x3": new URL("./nets/bitsr-s-x3.bsr", import.meta.url),
  "bitsr-s-x4": new URL("./nets/bitsr-s-x4.bsr", import.meta.url),
  "bitsr-m-x2": new URL("./nets/bitsr-m-x2.bsr", import.meta.url),
  "bitsr-m-x3": new URL("./nets/bitsr-m-x3.bsr", import.meta.url),
  "bitsr-m-x4": new URL("./nets/bitsr-m-x4.bsr", import.meta.url),
  "bitsr-photo-m-x2": new URL("./nets/bitsr-photo-m-x2.bsr", import.meta.url),
  "bitsr-photo-m-x4": new URL("./nets/bitsr-photo-m-x4.bsr", import.meta.url),
};

export type NetName = keyof typeof NETS;
