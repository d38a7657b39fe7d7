// What is drawn of random numbers that a seed brings back: the same rounds on every machine.
import { seededRandom } from "../lib/random.ts";

export class Random {
  readonly #next: () => number;

  constructor(seed: number) {
    this.#next = seededRandom(seed);
  }

  /** 0 … n - 1. */
  below(n: number): number {
    return Math.floor(this.#next() * n);
  }

  chance(share: number): boolean {
    return this.#next() < share;
  }

  pick<T>(from: readonly T[]): T {
    const picked = from[this.below(from.length)];
    if (picked === undefined) throw new Error("Nothing to pick from");
    return picked;
  }

  bytes(n: number): Uint8Array {
    return Uint8Array.from({ length: n }, () => this.below(256));
  }
}
