// The errors a user is meant to read, by who can mend them: the caller's input, or the system. What is neither is a
// bug and shows its stack. Ask with the predicates, never by text.

/** Wrong usage, or input (a file, a flag, a field) that cannot be used. The command leaves with 2. */
export class InputError extends Error {
  override readonly name = "InputError";
}

/** The system refused: no privilege, a missing kernel feature, something taken by somebody else. Leaves with 3. */
export class RefusedError extends Error {
  override readonly name = "RefusedError";
}

export const isInputError = (error: unknown): error is InputError => error instanceof InputError;

export const isRefusedError = (error: unknown): error is RefusedError => error instanceof RefusedError;

/** A failed call of the operating system: node's own (`code`) or a foreign call's (`errno`). */
export const isSystemFailure = (error: unknown): error is Error & { readonly code?: string; readonly errno: number } =>
  error instanceof Error && typeof (error as { errno?: unknown }).errno === "number";

/** What was thrown, in words, with every cause that says something new: `Cannot read a.yaml: permission denied`. */
export const messageOf = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error);
  const rest = error.cause === undefined ? "" : messageOf(error.cause);
  return rest === "" || error.message.includes(rest) ? error.message : `${error.message}: ${rest}`;
};

/** 2 wrong usage or input, 3 the system refused, 1 anything else. */
export const exitCodeOf = (error: unknown): 1 | 2 | 3 => {
  if (isInputError(error)) return 2;
  return isRefusedError(error) || isSystemFailure(error) ? 3 : 1;
};
