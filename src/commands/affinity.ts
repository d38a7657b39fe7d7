// `beeline affinity`: which client stays with which backend, and for how much longer.
import { backend_state } from "../dataplane/bpf/abi.gen.ts";
import { readAffinity } from "../dataplane/bpf/inspect.ts";
import type { MapStore } from "../dataplane/bpf/mapstore.ts";
import { bootTime_ns } from "../dataplane/bpf/system/clock.ts";
import { readTables } from "../dataplane/bpf/tables.ts";
import { age, columns } from "../lib/text.ts";
import { formatHostPort } from "../model/address.ts";
import type { Run } from "./command.ts";
import { readServiceNames } from "./held.ts";
import { withPinnedMaps } from "./pinned.ts";
import { type Report, show } from "./report.ts";

export const affinity: Run = (args, io) =>
  show(args, io, () => withPinnedMaps(args, (store) => affinityReport(store, bootTime_ns())));

export const affinityReport = (store: MapStore, now_ns: bigint): Report => {
  const names = readServiceNames(store);
  const tables = readTables(store);
  const all = readAffinity(store)
    .map((record) => {
      const row = tables.backends.get(record.backend_id);
      const same = row?.generation === record.generation && row.state !== backend_state.BACKEND_NONE;
      const timeout_ms = (tables.services.get(record.service_id)?.affinity_timeout_s ?? 0) * 1000;
      const idle_ms = Number((now_ns - record.last_used_ns) / 1_000_000n);
      return {
        ...record,
        service: names.get(record.service_id) ?? null,
        /** null: the backend is gone, so the next connection chooses anew. */
        backend: row !== undefined && same ? formatHostPort(row.addr, row.port) : null,
        expires_ms: Math.max(0, timeout_ms - idle_ms),
      };
    })
    .sort((a, b) => (`${a.service} ${a.client}` < `${b.service} ${b.client}` ? -1 : 1));
  return {
    kind: "AffinityList",
    fields: { items: all },
    text: ({ wide, headers }) =>
      columns(
        headers
          ? ["CLIENT", "SERVICE", "BACKEND", "EXPIRES", ...(wide ? ["SERVICE-ID", "BACKEND-ID", "GENERATION"] : [])]
          : null,
        all.map((a) => [
          a.client,
          a.service ?? "-",
          a.backend ?? "gone",
          expiryText(a.backend, a.expires_ms),
          ...(wide ? [a.service_id, a.backend_id, a.generation].map(String) : []),
        ]),
      ),
  };
};

const expiryText = (backend: string | null, expires_ms: number): string => {
  if (backend === null) return "-";
  return expires_ms === 0 ? "expired" : `in ${age(expires_ms)}`;
};
