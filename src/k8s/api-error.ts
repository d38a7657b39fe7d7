// What can go wrong between us and the API server, by what to do about it.

/** The server said no: an HTTP status, or a Status object in a watch stream. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  /** HTTP code; 0 when the answer does not say. */
  readonly status: number;
  /** How long the server wants to be left alone, or null. */
  readonly retryAfter_ms: number | null;

  constructor(message: string, status: number, retryAfter_ms: number | null) {
    super(message);
    this.status = status;
    this.retryAfter_ms = retryAfter_ms;
  }
}

export const isApiError = (error: unknown): error is ApiError => error instanceof ApiError;

/** The answer cannot be trusted (no JSON, out of order, too long): only a new list makes sure that nothing is missed. */
export class DistrustError extends Error {
  override readonly name = "DistrustError";
}

/** An answer is larger than we are ready to hold. */
export class TooLargeError extends Error {
  override readonly name = "TooLargeError";
}
