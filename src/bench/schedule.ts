// In which order things are measured. Pure. For each measurement every stack in turn, in reverse every other round: what
// the machine does meanwhile, and being first or last, hits all of them alike.

export interface Step<M, S> {
  readonly round: number;
  readonly measurement: M;
  readonly stack: S;
}

/** `measures`: whether a measurement can be made at all on a stack. */
export const schedule = <M, S>(
  measurements: readonly M[],
  stacks: readonly S[],
  rounds: number,
  measures: (measurement: M, stack: S) => boolean = () => true,
): readonly Step<M, S>[] =>
  Array.from({ length: rounds }, (_, round) => {
    const order = round % 2 === 0 ? stacks : [...stacks].reverse();
    return measurements.flatMap((measurement) =>
      order.filter((stack) => measures(measurement, stack)).map((stack) => ({ round, measurement, stack })),
    );
  }).flat();
