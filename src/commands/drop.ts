// One packet or call that was refused or dropped, in words: which service it was for, and whether it is asked for.
import { decode, encode } from "../dataplane/bpf/codec.ts";
import type { DropEvent } from "../dataplane/bpf/events.ts";
import type { MapStore } from "../dataplane/bpf/mapstore.ts";
import { InputError } from "../lib/errors.ts";
import { hint } from "../lib/suggest.ts";
import {
  type Address,
  familyOf,
  formatHostPort,
  makePrefix,
  type Prefix,
  parseAddress,
  parsePrefix,
  prefixContains,
} from "../model/address.ts";
import { type ServicePortName, servicePortKey } from "../model/desired.ts";
import { type Direction, meaningOf, type PacketVerdict, reasons } from "../model/reason.ts";
import type { Protocol } from "../model/snapshot.ts";
import type { Args } from "./command.ts";
import { isMeant } from "./services.ts";

export interface Drop {
  readonly time: Date;
  readonly hook: string;
  readonly device: string | null;
  readonly verdict: PacketVerdict | null;
  readonly direction: Direction | null;
  readonly reason: string;
  readonly text: string;
  readonly protocol: string;
  readonly from: DropEvent["from"];
  readonly to: DropEvent["to"];
  /** null: not known, or gone since. */
  readonly service: ServicePortName | null;
  readonly backend: { readonly address: Address; readonly port: number } | null;
  /** Of a socket call. */
  readonly caller: DropEvent["caller"];
}

/** `boot_ms`: when the machine started, which is what times in events count from. */
export const dropOf = (event: DropEvent, store: MapStore, boot_ms: number): Drop => {
  const { hook, reason } = event;
  const meaning = meaningOf(hook, reason);
  return {
    time: new Date(boot_ms + Number(event.time_ns / 1000n) / 1000),
    hook,
    device: event.device,
    verdict: meaning?.verdict ?? null,
    direction: meaning?.direction ?? null,
    reason,
    text: meaning?.text ?? "-",
    protocol: event.protocol,
    from: event.from,
    to: event.to,
    service: event.service_id === null ? null : serviceOf(store, event.service_id),
    backend: event.backend_id === null ? null : backendOf(store, event.backend_id),
    caller: event.caller,
  };
};

const serviceOf = (store: MapStore, id: number): ServicePortName | null => {
  const row = store.lookup("services", encode("u32", id));
  if (row === null) return null;
  const { namespace, name, port_name, proto } = decode("service", row);
  return { namespace, name, port: port_name, protocol: protocolOf(proto) };
};

const protocolOf = (number: number): Protocol => (number === 6 ? "TCP" : number === 17 ? "UDP" : "SCTP");

const backendOf = (store: MapStore, id: number): Drop["backend"] => {
  const row = store.lookup("backends", encode("u32", id));
  if (row === null) return null;
  const { addr, port } = decode("backend", row);
  return { address: addr, port };
};

// ---- which are asked for -------------------------------------------------------------------------------------------

/** Throws InputError for a reason or address that cannot be. */
export const filterOf = (args: Args): ((drop: Drop) => boolean) => {
  const wanted = args.reason?.map(reasonNamed);
  const [address, source, destination] = (["address", "source", "destination"] as const).map((name) =>
    prefixOf(name, args[name]),
  );
  const isIn = (prefix: Prefix | null | undefined, ...addresses: readonly Address[]): boolean =>
    prefix === null || prefix === undefined || addresses.some((a) => prefixContains(prefix, a));
  return (drop) =>
    (args.service === undefined || (drop.service !== null && isMeant(drop.service, args.service))) &&
    (wanted === undefined || wanted.includes(drop.reason)) &&
    isIn(address, drop.from.address, drop.to.address) &&
    isIn(source, drop.from.address) &&
    isIn(destination, drop.to.address);
};

const DROPS = Object.entries(reasons)
  .filter(([, { verdict }]) => verdict === "refused" || verdict === "dropped")
  .map(([name]) => name);

const reasonNamed = (name: string): string => {
  if (DROPS.includes(name)) return name;
  throw new InputError(`--reason ${name}: unknown${hint(name, DROPS)}; there are ${DROPS.join(", ")}`);
};

const prefixOf = (option: string, text: string | undefined): Prefix | null => {
  if (text === undefined) return null;
  const address = parseAddress(text);
  const prefix = address === null ? parsePrefix(text) : makePrefix(address, familyOf(address) === "IPv4" ? 32 : 128);
  if (prefix === null) throw new InputError(`--${option} ${text}: expected an address or a prefix, like 10.244.0.0/16`);
  return prefix;
};

// ---- words ---------------------------------------------------------------------------------------------------------

export const DROP_HEADERS = ["TIME", "HOOK", "AT", "PROTO", "FROM", "TO", "SERVICE", "REASON", "MEANING"];

export const dropCells = (drop: Drop): readonly string[] => [
  clock(drop.time),
  drop.hook,
  drop.caller === null ? (drop.device ?? "-") : `${drop.caller.name}/${drop.caller.pid}`,
  drop.protocol,
  end(drop.from),
  end(drop.to),
  drop.service === null ? "-" : serviceText(drop.service),
  drop.reason,
  drop.text,
];

/** As kubectl says it: `shop/web:http`. */
const serviceText = ({ namespace, name, port }: ServicePortName): string =>
  `${namespace}/${name}${port === "" ? "" : `:${port}`}`;

const end = ({ address, port }: DropEvent["from"]): string => formatHostPort(address, port);

/** Local time of day, to the millisecond. */
const clock = (time: Date): string =>
  [time.getHours(), time.getMinutes(), time.getSeconds()].map((n) => String(n).padStart(2, "0")).join(":") +
  `.${String(time.getMilliseconds()).padStart(3, "0")}`;

export const dropJson = ({ service, ...rest }: Drop): Readonly<Record<string, unknown>> => ({
  ...rest,
  service: service === null ? null : servicePortKey(service),
});
