// `beeline backends`: where traffic is sent, and how much was.
import { columns } from "../lib/text.ts";
import type { Run } from "./command.ts";
import { backendIdOf, type Held, hostPort, readHeld, serviceText, sortedServices } from "./held.ts";
import { withPinnedMaps } from "./pinned.ts";
import { type Report, show } from "./report.ts";

export const backends: Run = (args, io) =>
  show(args, io, () => withPinnedMaps(args, (store) => backendReport(readHeld(store))));

export const backendReport = (held: Held): Report => {
  const all = sortedServices(held.desired).flatMap((service) =>
    service.backends.map((backend) => {
      const id = backendIdOf(held, service, backend);
      const row = id === null ? undefined : held.tables.backends.get(id);
      return { service, backend, id, generation: row?.generation ?? null, stats: held.stats.get(id ?? -1) };
    }),
  );
  return {
    kind: "BackendList",
    fields: {
      items: all.map(({ service, backend, id, generation, stats }) => ({
        ...backend,
        protocol: service.name.protocol,
        service: serviceText(service),
        id,
        generation,
        new_flows: stats?.new_flows ?? 0n,
        open_sockets: stats?.open_sockets ?? 0n,
      })),
    },
    text: ({ wide, headers }) =>
      columns(
        headers
          ? [
              ...["ADDRESS", "PROTO", "STATE", "LOCAL", "NEW-FLOWS", "OPEN-SOCKETS", "SERVICE"],
              ...(wide ? ["ID", "GENERATION"] : []),
            ]
          : null,
        all.map(({ service, backend, id, generation, stats }) => [
          hostPort(backend),
          service.name.protocol,
          backend.state,
          backend.local ? "yes" : "no",
          String(stats?.new_flows ?? 0n),
          String(stats?.open_sockets ?? 0n),
          serviceText(service),
          ...(wide ? [String(id ?? "-"), String(generation ?? "-")] : []),
        ]),
      ),
  };
};
