// The write order: a packet must never follow a pointer to nothing. What is pointed at is written before the pointer;
// the pointer goes before what it points at. Every apply walks this table once, top to bottom.
import type { MapName } from "./mapstore.ts";

export interface Phase {
  readonly map: MapName;
  /** To retire is to write that an entry of an array is nobody's. */
  readonly does: "write" | "remove" | "retire";
  /** Before it wait until every program has ended that may still follow what has been replaced or removed before. */
  readonly afterPrograms: boolean;
  readonly why: string;
}

const write = (map: MapName, why: string): Phase => ({ map, does: "write", afterPrograms: false, why });
const remove = (map: MapName, why: string): Phase => ({ map, does: "remove", afterPrograms: false, why });
const retire = (map: MapName, why: string): Phase => ({ map, does: "retire", afterPrograms: false, why });
const afterPrograms = (phase: Phase): Phase => ({ ...phase, afterPrograms: true });

export const phases = {
  name_services: write("services", "first: whatever a crash leaves behind can be told whose it is"),
  set_config: write("config", "how far readers read in backends; the SNAT source, before there are flows that need it"),
  raise_backends: write("backends", "new ones, and all that an existing one gains; losses wait for the commit"),
  fill_slots: write("slots", "runs that no frontend points at yet"),
  add_source_ranges: write("source_ranges", "before a frontend starts to ask for them"),
  add_frontend_addresses: write(
    "frontend_addresses",
    "a frontend is only found at an address that is there; it refuses nothing yet",
  ),
  add_node_addresses: write("node_addresses", "a NodePort may answer on one more address at any time"),
  point_frontends: afterPrograms(
    write(
      "frontends",
      "the commit: one write moves a frontend from the old answer to the new. The kernel reuses the memory of a replaced " +
        "entry for a later one, so the programs that read what the last commit replaced must have ended",
    ),
  ),
  point_nodeports: write("nodeports", "the commit, for every node address at once"),
  settle_frontend_addresses: write(
    "frontend_addresses",
    "a VIP refuses the ports it does not have as soon as it has those it shall have, and an address that goes away stops " +
      "to refuse while it still has those it had",
  ),
  drop_frontends: remove("frontends", "after the commit: one that moved to another service has been overwritten"),
  drop_nodeports: remove("nodeports", "likewise"),
  drop_frontend_addresses: remove("frontend_addresses", "no frontend is found there now"),
  lower_backends: afterPrograms(write("backends", "to draining, to fewer policies: no frontend names them now")),
  retire_backends: afterPrograms(retire("backends", "likewise, to nobody (NONE keeps the generation)")),
  narrow_source_ranges: afterPrograms(
    write("source_ranges", "0.0.0.0/0 no longer lets in: no frontend counts on it now"),
  ),
  drop_source_ranges: afterPrograms(remove("source_ranges", "no frontend asks for them now")),
  drop_node_addresses: remove("node_addresses", "nothing points at them"),
  forget_services: remove("services", "last: nothing with this service_id is left"),
} as const satisfies Readonly<Record<string, Phase>>;

export type PhaseName = keyof typeof phases;

/** One write or removal. */
export interface Change {
  readonly key: Uint8Array;
  /** Empty for a removal. */
  readonly value: Uint8Array;
}

/** The changes of one apply, by phase; written in order (which matters for source ranges alone). */
export type Changes = Readonly<Record<PhaseName, Change[]>>;

export const noChanges = (): Changes =>
  Object.fromEntries(Object.keys(phases).map((name) => [name, []])) as unknown as Changes;
