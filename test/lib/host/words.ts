// Small words that servers and clients of a host process share.

export const DEFAULT_TIMEOUT_MS = 1000;

export const codeOf = (error: unknown): string =>
  error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : String(error);

export const withoutMapping = (address: string): string => address.replace(/^::ffff:(?=\d+\.)/, "");

/** Milliseconds, to a tenth. */
export const since = (started: number): number => Math.round((performance.now() - started) * 10) / 10;
