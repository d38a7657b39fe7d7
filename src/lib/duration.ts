// Durations as Kubernetes configuration writes them (Go's time.ParseDuration): `30s`, `1h15m`, `1.5s`, `0`.

const UNIT_MS: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};

/** Milliseconds, or null when it is no duration. Negative ones are none here. */
export const parseDuration = (text: string): number | null => {
  if (text === "0") return 0;
  if (!/^(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))*$/.test(text)) return null;
  let total_ms = 0;
  for (const [, number = "", unit = ""] of text.matchAll(/([\d.]+)(ns|us|µs|ms|s|m|h)/g)) {
    total_ms += Number(number) * (UNIT_MS[unit] ?? 0);
  }
  return total_ms;
};
