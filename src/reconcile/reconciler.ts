// Level-triggered: "something changed" makes one apply of everything there is, never a queue of changes. At most one is in
// flight; triggers meanwhile are one more afterwards; what failed is tried again, ever more rarely.

export interface ReconcilerOptions {
  /** Makes the world as it should be now. A failure is thrown (or rejected), and is tried again. */
  apply(): void | Promise<void>;
  /** From the start of one apply to the start of the next, unless that one is a retry, which waits longer. */
  readonly min_interval_ms: number;
  readonly backoff?: Backoff;
  readonly clock?: Clock;
  /** 0 (included) to 1 (excluded). */
  readonly random?: () => number;
  onResult?(result: Result): void;
}

/** The wait after the first failure, doubled by each further one up to the longest; each is shortened by up to half. */
export interface Backoff {
  readonly first_ms: number;
  readonly longest_ms: number;
}

export type Result =
  | { readonly ok: true; readonly took_ms: number }
  | { readonly ok: false; readonly error: unknown; readonly took_ms: number; readonly retry_ms: number };

export interface Clock {
  now_ms(): number;
  /** Answers what ends the wait. */
  after(ms: number, call: () => void): () => void;
}

const DEFAULT_BACKOFF: Backoff = { first_ms: 200, longest_ms: 30_000 };

const systemClock: Clock = {
  now_ms: () => performance.now(),
  after(ms, call) {
    const timer = setTimeout(call, ms);
    return () => clearTimeout(timer);
  },
};

export class Reconciler {
  readonly #options: ReconcilerOptions;
  readonly #clock: Clock;
  #running: Promise<void> | null = null;
  /** Something changed after the apply in flight began. */
  #again = false;
  #failures = 0;
  #lastStart_ms = Number.NEGATIVE_INFINITY;
  /** The next apply: when, and what calls it off. */
  #next: { readonly at_ms: number; readonly cancel: () => void } | null = null;
  #closed = false;

  constructor(options: ReconcilerOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** Something changed. A retry that waits comes earlier: the change may be what it needs. */
  trigger(): void {
    if (this.#closed) return;
    if (this.#running !== null) this.#again = true;
    else this.#schedule(this.#lastStart_ms + this.#options.min_interval_ms);
  }

  /** Waits for the apply in flight. None begins after the call. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#next?.cancel();
    this.#next = null;
    await this.#running;
  }

  /** The earlier of two times counts. */
  #schedule(at_ms: number): void {
    if (this.#closed || (this.#next !== null && this.#next.at_ms <= at_ms)) return;
    this.#next?.cancel();
    const wait_ms = Math.max(0, at_ms - this.#clock.now_ms());
    this.#next = { at_ms, cancel: this.#clock.after(wait_ms, () => this.#start()) };
  }

  #start(): void {
    this.#next = null;
    this.#again = false;
    this.#lastStart_ms = this.#clock.now_ms();
    // Not before #running says so: an apply may trigger another one.
    this.#running = Promise.resolve()
      .then(() => this.#run())
      .finally(() => {
        this.#running = null;
        if (this.#again) this.trigger();
      });
  }

  async #run(): Promise<void> {
    let failure: { readonly error: unknown } | null = null;
    try {
      await this.#options.apply();
      this.#failures = 0;
    } catch (error) {
      failure = { error };
    }
    const now_ms = this.#clock.now_ms();
    const took_ms = now_ms - this.#lastStart_ms;
    if (failure === null) return this.#options.onResult?.({ ok: true, took_ms });
    const retry_ms = this.#nextWait();
    this.#schedule(now_ms + retry_ms);
    this.#options.onResult?.({ ok: false, ...failure, took_ms, retry_ms });
  }

  #nextWait(): number {
    const { first_ms, longest_ms } = this.#options.backoff ?? DEFAULT_BACKOFF;
    const whole_ms = Math.min(longest_ms, first_ms * 2 ** this.#failures);
    this.#failures++;
    const random = this.#options.random ?? Math.random;
    return Math.max(this.#options.min_interval_ms, whole_ms * (1 - random() / 2));
  }
}
