/** What bitsr refuses, or cannot do; the message is one line for the user. */
export class BitsrError extends Error {
  override name = "BitsrError";
}

/** Any error as a BitsrError of one line. */
export function asBitsrError(error: unknown, what: string): BitsrError {
  if (error instanceof BitsrError) return error;
  const text = error instanceof Error ? error.message : String(error);
  return new BitsrError(`${what}: ${text.split("\n", 1)[0]}`);
}
