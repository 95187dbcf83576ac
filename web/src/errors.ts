/** A fault of the input, not of the page; the message is one line for the user. */
export class PageError extends Error {}
