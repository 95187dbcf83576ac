/** Gigabytes of the device's memory, 8 at most; browsers that do not tell count as small devices. */
export const memory = (navigator as { deviceMemory?: number }).deviceMemory ?? 4;
