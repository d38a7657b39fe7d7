// The kernel's clock.
import { checkLibc } from "./errors.ts";
import { libc } from "./libc.ts";

/** CLOCK_BOOTTIME, by which the programs write down times. */
export const bootTime_ns = (): bigint => {
  const CLOCK_BOOTTIME = 7;
  const time = new BigInt64Array(2); // struct timespec
  checkLibc("Cannot read the clock", libc().clock_gettime(CLOCK_BOOTTIME, time) as number);
  return (time[0] ?? 0n) * 1_000_000_000n + (time[1] ?? 0n);
};
