// Asks again until the assertion holds, or fails with what it said last.

/** What a process may take to start, or to its end: on an emulated machine that others use too, minutes. */
export const SLOWEST_PROCESS_MS = 180_000;

export const eventually = async <T>(check: () => Promise<T> | T, timeout_ms = 5000): Promise<T> => {
  const deadline = performance.now() + timeout_ms;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (performance.now() > deadline) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};
