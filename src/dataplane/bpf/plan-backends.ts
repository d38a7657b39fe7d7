// Backends of one service: ids that stay, gains before the commit, losses after it.
import type * as abi from "./abi.gen.ts";
import { backend_flag, backend_state } from "./abi.gen.ts";
import type { Actual, HeldBackend, Holding } from "./actual.ts";
import { encode } from "./codec.ts";
import type { Draft } from "./draft.ts";
import type { Changes } from "./order.ts";
import type { BackendRow } from "./rows.ts";
import { NO_ADDRESS } from "./tables.ts";

export interface Numbered {
  readonly backend_id: number;
  readonly generation: number;
}

/** Ids by `address:port`; the new ones are also put into `taken`. */
export const numberBackends = (
  actual: Actual,
  held: Holding | undefined,
  wanted: ReadonlyMap<string, BackendRow>,
  taken: number[],
): Map<string, Numbered> => {
  const numbered = new Map<string, Numbered>();
  for (const text of wanted.keys()) {
    const old = held?.backends.get(text);
    if (old !== undefined) {
      numbered.set(text, { backend_id: old.backend_id, generation: old.row.generation });
      continue;
    }
    const next = actual.backend_ids.take();
    if (next === null) throw new Error("backends has room but no free backend_id");
    taken.push(next.id);
    numbered.set(text, { backend_id: next.id, generation: next.generation });
  }
  return numbered;
};

/** True: something is kept that is not wanted. */
export const planBackends = (
  draft: Draft,
  holding: Holding,
  wanted: ReadonlyMap<string, BackendRow>,
  numbered: ReadonlyMap<string, Numbered>,
): boolean => {
  let kept = false;
  for (const [text, { backend_id, generation }] of numbered) {
    const want = wanted.get(text);
    if (want === undefined) continue;
    const final: abi.Backend = { ...want, generation, service_id: holding.service_id };
    const old = holding.backends.get(text)?.row;
    const raised = old === undefined ? final : raise(old, final);
    if (old === undefined || !sameBackend(old, raised)) writeBackend(draft.changes.raise_backends, backend_id, raised);
    const lowers = !sameBackend(raised, final);
    if (lowers && draft.prune) writeBackend(draft.changes.lower_backends, backend_id, final);
    kept ||= lowers && !draft.prune;
    holding.backends.set(text, { backend_id, row: draft.prune ? final : raised });
  }
  for (const [text, backend] of [...holding.backends]) {
    if (numbered.has(text)) continue;
    if (draft.prune) retire(draft, holding, text, backend);
    else kept = true;
  }
  return kept;
};

const writeBackend = (into: Changes["raise_backends"], backend_id: number, row: abi.Backend): void =>
  void into.push({ key: encode("u32", backend_id), value: encode("backend", row) });

const IN_RUNS = backend_flag.BACKEND_IN_CLUSTER | backend_flag.BACKEND_IN_LOCAL;

/** The new row without taking anything away: the old frontends still point at it until the commit. */
const raise = (old: abi.Backend, final: abi.Backend): abi.Backend => ({
  ...final,
  state: old.state === backend_state.BACKEND_ACTIVE ? backend_state.BACKEND_ACTIVE : final.state,
  flags: final.flags | (old.flags & IN_RUNS),
});

export const retire = (draft: Draft, holding: Holding, text: string, { backend_id, row }: HeldBackend): void => {
  const nobody = { addr: NO_ADDRESS, port: 0, proto: 0, state: backend_state.BACKEND_NONE, service_id: 0, flags: 0 };
  writeBackend(draft.changes.retire_backends, backend_id, { ...nobody, generation: row.generation });
  draft.releasedBackends.push(backend_id);
  holding.backends.delete(text);
};

const sameBackend = (a: abi.Backend, b: abi.Backend): boolean => a.state === b.state && a.flags === b.flags;
