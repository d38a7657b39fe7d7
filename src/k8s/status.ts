// The API's Status objects, in which it says why not.
import { ApiError } from "./api-error.ts";
import { isRecord } from "./field.ts";

/** No server may silence us for longer. */
const MAX_RETRY_AFTER_MS = 300_000;

/**
 * An error from a Status object (or from whatever came instead of one). `httpStatus` and `retryAfter` (the header: whole
 * seconds) speak where the object does not.
 */
export const statusError = (
  value: unknown,
  what: string,
  httpStatus = 0,
  retryAfter: string | null = null,
): ApiError => {
  const { code, message, reason, details } = isRecord(value) ? value : {};
  const status = typeof code === "number" && Number.isInteger(code) ? code : httpStatus;
  const seconds = isRecord(details) ? details.retryAfterSeconds : undefined;
  const why = [reason, message].filter((part) => typeof part === "string" && part !== "").join(": ");
  return new ApiError(
    `Cannot ${what}: ${status === 0 ? "" : `${status} `}${why === "" ? "no reason given" : why}`.slice(0, 500),
    status,
    milliseconds(retryAfter === null ? seconds : Number(retryAfter)),
  );
};

const milliseconds = (seconds: unknown): number | null =>
  typeof seconds === "number" && seconds > 0 ? Math.min(seconds * 1000, MAX_RETRY_AFTER_MS) : null;
