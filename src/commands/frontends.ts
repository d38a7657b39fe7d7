// `beeline frontends`: every address that a client can connect to, and what comes of it.
import { columns } from "../lib/text.ts";
import type { Run } from "./command.ts";
import { choicesOf, choiceText, frontendText, type Held, readHeld, serviceText, sortedServices } from "./held.ts";
import { withPinnedMaps } from "./pinned.ts";
import { type Report, show } from "./report.ts";

export const frontends: Run = (args, io) =>
  show(args, io, () => withPinnedMaps(args, (store) => frontendReport(readHeld(store))));

export const frontendReport = (held: Held): Report => {
  const all = sortedServices(held.desired).flatMap((service) =>
    service.frontends.flatMap((frontend) => choicesOf(frontend).map((c) => ({ service, frontend, ...c }))),
  );
  return {
    kind: "FrontendList",
    fields: {
      items: all.map(({ service, frontend, from, choice }) => ({
        kind: frontend.kind,
        family: frontend.family,
        address: frontend.address,
        port: frontend.port,
        protocol: service.name.protocol,
        service: serviceText(service),
        from,
        policy: choice.policy,
        verdict: choice.kind === "backends" ? "forward" : choice.kind,
        backends: choice.kind === "backends" ? choice.backends.length : 0,
        restricted: frontend.restricted,
      })),
    },
    text: ({ wide, headers }) =>
      columns(
        headers
          ? ["ADDRESS", "PROTO", "TYPE", "FROM", "BACKENDS", "SERVICE", ...(wide ? ["POLICY", "SOURCES"] : [])]
          : null,
        all.map(({ service, frontend, from, choice }) => {
          const row = [frontendText(frontend), service.name.protocol, frontend.kind, from, choiceText(choice)];
          row.push(serviceText(service));
          if (!wide) return row;
          const sources = frontend.restricted ? service.sourceRanges.join(",") : "everybody";
          return [...row, choice.policy, sources];
        }),
      ),
  };
};
