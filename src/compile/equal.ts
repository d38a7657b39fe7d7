// Equality of plain values: objects, arrays, numbers, strings, null.

export const equal = (a: unknown, b: unknown): boolean => {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const [x, y] = [Object.entries(a), b as Readonly<Record<string, unknown>>];
  return x.length === Object.keys(b).length && x.every(([key, value]) => Object.hasOwn(y, key) && equal(value, y[key]));
};
