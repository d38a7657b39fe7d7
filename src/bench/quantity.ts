// A value with its unit, as a person reads it: three digits that count, and the unit or prefix that fits its size.
// Results keep one unit per metric; 8600 ms is read as 8.60 s, and 1130000 packets/s as 1.13 M packets/s. Pure.

export interface Quantity {
  /** `8.60`, `1.13 M` */
  readonly number: string;
  /** `s`, `packets/s`; empty: a bare number. */
  readonly unit: string;
}

/** Units of one kind, each with how many of the kind's first one it is. */
const FAMILIES: readonly (readonly (readonly [unit: string, size: number])[])[] = [
  [
    ["ns", 1],
    ["µs", 1e3],
    ["ms", 1e6],
    ["s", 1e9],
  ],
  [
    ["bytes", 1],
    ["kB", 1e3],
    ["MB", 1e6],
    ["GB", 1e9],
  ],
];

const PREFIXES: readonly (readonly [prefix: string, size: number])[] = [
  [" G", 1e9],
  [" M", 1e6],
  [" k", 1e3],
];

export const quantity = (value: number, unit: string): Quantity => {
  const family = FAMILIES.find((units) => units.some(([name]) => name === unit));
  if (value === 0 || !Number.isFinite(value)) return { number: digits(value), unit };
  if (family !== undefined) return inFamily(value, unit, family);
  if (unit.startsWith("Gbit") || Math.abs(value) < 1000) return { number: digits(value), unit };
  const [prefix, size] = PREFIXES.find(([, least]) => Math.abs(value) >= least * ROUNDS_UP) ?? ["", 1];
  return { number: `${digits(value / size)}${prefix}`, unit };
};

/** `8.60 s`, `1.13 M packets/s` */
export const quantityText = (value: number, unit: string): string => {
  const { number, unit: shown } = quantity(value, unit);
  return shown === "" ? number : `${number} ${shown}`;
};

/** `8.60–11.1 s`, `980 µs–1.20 ms`: the unit once where it is the same. */
export const quantityRange = (min: number, max: number, unit: string): string => {
  const [low, high] = [quantity(min, unit), quantity(max, unit)];
  return `${low.unit === high.unit ? low.number : quantityText(min, unit)}–${quantityText(max, unit)}`;
};

/** 999.6 is 1.00 of the next unit. */
const ROUNDS_UP = 0.9995;

const inFamily = (value: number, unit: string, family: (typeof FAMILIES)[number]): Quantity => {
  const base = value * (family.find(([name]) => name === unit)?.[1] ?? 1);
  const fitting = family.findLast(([, size]) => Math.abs(base) >= size * ROUNDS_UP) ?? family[0];
  const [name, size] = fitting ?? [unit, 1];
  return { number: digits(base / size), unit: name };
};

/** Three digits that count: `0.0123`, `1.23`, `12.3`, `123`, `12 300`; 0 is `0`. */
export const digits = (value: number): string => {
  if (value === 0) return "0";
  if (!Number.isFinite(value)) return "–";
  const rounded = Number(value.toPrecision(3));
  const decimals = Math.min(20, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(rounded)))));
  return grouped(rounded.toFixed(decimals));
};

/** `10 000`, by thin spaces that do not break. */
export const grouped = (number: number | string): string => {
  const [whole = "", ...fraction] = String(number).split(".");
  return [whole.replace(/\B(?=(\d{3})+$)/g, "\u202f"), ...fraction].join(".");
};

/** `27×`, `2.27×`, `0.85×`, `0.058×`: two decimals, more where they would say nothing. */
export const timesText = (times: number): string => `${timesDigits(times)}×`;

/** `2.10–2.31×`; `2.10×` where both ends are the same. */
export const timesRange = (min: number, max: number): string =>
  timesDigits(min) === timesDigits(max) ? timesText(min) : `${timesDigits(min)}–${timesText(max)}`;

const timesDigits = (times: number): string => {
  if (times === Number.POSITIVE_INFINITY) return "∞";
  if (times >= 10) return digits(times);
  return times >= 0.1 || times <= 0 ? times.toFixed(2) : times.toPrecision(2);
};
