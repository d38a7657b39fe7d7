// Small words that servers and clients of a host process share.

export const DEFAULT_TIMEOUT_MS = 1000;

/** Asks a server to close the connection. */
export const HANG_UP = "hang up\n";

export const codeOf = (error: unknown): string =>
  error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : String(error);

export const withoutMapping = (address: string): string => address.replace(/^::ffff:(?=\d+\.)/, "");

/** Milliseconds, to a tenth. */
export const since = (started: number): number => Math.round((performance.now() - started) * 10) / 10;

/**
 * Calls `action` when nothing has come for so long; answers what calls that off. A process that was held up longer finds
 * its timers due before it looks at what has arrived meanwhile, so it looks once more.
 */
export const whenSilent = (timeout_ms: number, action: () => void): (() => void) => {
  let looked: NodeJS.Immediate | undefined;
  const timer = setTimeout(() => {
    looked = setImmediate(action);
  }, timeout_ms);
  return () => {
    clearTimeout(timer);
    clearImmediate(looked);
  };
};
