// Asks again until the assertion holds, or fails with what it said last.

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
