// Desired → the rules that kube-proxy's nftables mode writes since v1.36, as far as the benchmark's services need them:
// ClusterIPs and external IPs with endpoints, no affinity, policy Cluster, IPv4. Verdict maps from address and port to a chain of the service, which
// translates at random to one of its endpoints. Written for comparison only; nothing here serves a node. Pure.
import { createHash } from "node:crypto"; // pure: the same text has the same hash everywhere
import type { Desired, DesiredService, Frontend } from "../model/desired.ts";

const TABLE = "ip kube-proxy";

/** Everything, in place of what was there: the input of one `nft -f`, which is one transaction. */
export const nftablesInput = (desired: Desired): string => {
  const services = [...desired.services.values()];
  return `${[
    `add table ${TABLE}`,
    `delete table ${TABLE}`,
    `add table ${TABLE} { comment "rules for kube-proxy"; }`,
    ...FRAME.map((line) => `add ${line}`),
    ...services.flatMap(chainLines),
    ...elements("cluster-ips", [...new Set(services.flatMap((s) => s.frontends.filter(isClusterIP).map(addressOf)))]),
    ...elements("hairpin-connections", [...new Set(services.flatMap(hairpins))]),
    ...elements("service-ips", services.flatMap(entrances)),
    `add element ${TABLE} nodeport-ips { ${desired.nodeAddresses.map(({ address }) => address).join(", ")} }`,
  ].join("\n")}\n`;
};

/** What kube-proxy writes when the endpoints of one service change: its chain's rules anew, and who may meet itself. */
export const nftablesChange = (before: DesiredService, after: DesiredService): string => {
  const [gone, come] = [hairpins(before), hairpins(after)];
  return `${[
    ...elements(
      "hairpin-connections",
      come.filter((one) => !gone.includes(one)),
    ),
    ...elements(
      "hairpin-connections",
      gone.filter((one) => !come.includes(one)),
      "delete",
    ),
    `flush chain ${TABLE} ${chainOf(after)}`,
    `add rule ${TABLE} ${chainOf(after)} ${translation(after)}`,
  ].join("\n")}\n`;
};

/** Without services: sets and maps, chains, rules, each before it is named. */
const FRAME: readonly string[] = [
  "set ip kube-proxy cluster-ips { type ipv4_addr; }",
  "set ip kube-proxy nodeport-ips { type ipv4_addr; }",
  "set ip kube-proxy hairpin-connections { type ipv4_addr . ipv4_addr . inet_proto . inet_service; }",
  "map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }",
  "map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict; }",
  "map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }",
  "map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }",
  "map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict; }",
  ...[
    "masquerading",
    "reject-chain",
    "services",
    "service-endpoints-check",
    "nodeport-endpoints-check",
    "cluster-ips-check",
    "firewall-check",
  ].map((chain) => `chain ip kube-proxy ${chain}`),
  ...(
    [
      ["filter-prerouting-pre-dnat", "filter", "prerouting", -110],
      ["filter-output-pre-dnat", "filter", "output", -110],
      ["filter-input", "filter", "input", 0],
      ["filter-forward", "filter", "forward", 0],
      ["filter-output", "filter", "output", 0],
      ["nat-prerouting", "nat", "prerouting", -100],
      ["nat-output", "nat", "output", -100],
      ["nat-postrouting", "nat", "postrouting", 100],
    ] as const
  ).map(
    ([chain, type, hook, priority]) =>
      `chain ip kube-proxy ${chain} { type ${type} hook ${hook} priority ${priority}; policy accept; }`,
  ),
  ...(
    [
      ["filter-prerouting-pre-dnat", "ct state new jump firewall-check"],
      ["filter-output-pre-dnat", "ct state new jump firewall-check"],
      ["filter-input", "ct state new jump nodeport-endpoints-check"],
      ["filter-input", "ct state new jump service-endpoints-check"],
      ["filter-forward", "ct state new jump service-endpoints-check"],
      ["filter-forward", "ct state new jump cluster-ips-check"],
      ["filter-output", "ct state new jump service-endpoints-check"],
      ["filter-output", "ct state new jump cluster-ips-check"],
      ["nat-prerouting", "jump services"],
      ["nat-output", "jump services"],
      ["nat-postrouting", "jump masquerading"],
      [
        "masquerading",
        "ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random",
      ],
      ["masquerading", "mark and 0x4000 == 0 return"],
      ["masquerading", "mark set mark xor 0x4000"],
      ["masquerading", "masquerade fully-random"],
      ["reject-chain", "reject"],
      ["services", "ip daddr . meta l4proto . th dport vmap @service-ips"],
      ["services", "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"],
      ["service-endpoints-check", "ip daddr . meta l4proto . th dport vmap @no-endpoint-services"],
      ["nodeport-endpoints-check", "ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports"],
      ["cluster-ips-check", "ip daddr @cluster-ips reject"],
      ["firewall-check", "ip daddr . meta l4proto . th dport vmap @firewall-ips"],
    ] as const
  ).map(([chain, rule]) => `rule ip kube-proxy ${chain} ${rule}`),
];

const protocolOf = ({ name }: DesiredService): string => name.protocol.toLowerCase();

/** `service-ULMVA6XW-ns1/svc1/tcp/p80`: base32 of SHA-256, eight characters. */
const chainOf = (service: DesiredService): string => {
  const { namespace, name, port } = service.name;
  const text = `${namespace}/${name}/${protocolOf(service)}/${port}`;
  return `service-${hashOf(text)}-${text}`;
};

const externalChainOf = (service: DesiredService): string => chainOf(service).replace("service-", "external-");

const isClusterIP = ({ kind }: Frontend): boolean => kind === "ClusterIP";

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/** Eight times five bits. */
const hashOf = (text: string): string => {
  const bits = createHash("sha256").update(text).digest().readUIntBE(0, 5);
  return Array.from({ length: 8 }, (_, i) => ALPHABET[Math.floor(bits / 32 ** (7 - i)) % 32]).join("");
};

const chainLines = (service: DesiredService): readonly string[] => [
  `add chain ${TABLE} ${chainOf(service)}`,
  `add rule ${TABLE} ${chainOf(service)} ${translation(service)}`,
  ...(service.frontends.every(isClusterIP) ? [] : externalLines(service)),
];

/** From outside: the reply must come back through this node. */
const externalLines = (service: DesiredService): readonly string[] => [
  `add chain ${TABLE} ${externalChainOf(service)}`,
  `add rule ${TABLE} ${externalChainOf(service)} mark set mark or 0x4000`,
  `add rule ${TABLE} ${externalChainOf(service)} goto ${chainOf(service)}`,
];

const activeOf = ({ backends }: DesiredService) => backends.filter(({ state }) => state === "active");

const translation = (service: DesiredService): string => {
  const active = activeOf(service);
  const only = active.length === 1 ? active[0] : undefined;
  const proto = `meta l4proto ${protocolOf(service)}`;
  if (only !== undefined) return `${proto} dnat to ${only.address}:${only.port}`;
  const choices = active.map(({ address, port }, i) => `${i} : ${address} . ${port}`).join(", ");
  return `${proto} dnat ip addr . port to numgen random mod ${active.length} map { ${choices} }`;
};

const hairpins = (service: DesiredService): readonly string[] =>
  activeOf(service).map(({ address, port }) => `${address} . ${address} . ${protocolOf(service)} . ${port}`);

const addressOf = ({ address }: Frontend): string => address ?? "";

const entrances = (service: DesiredService): readonly string[] =>
  service.frontends.map((frontend) => {
    const chain = isClusterIP(frontend) ? chainOf(service) : externalChainOf(service);
    return `${addressOf(frontend)} . ${protocolOf(service)} . ${frontend.port} : goto ${chain}`;
  });

/** A line of many elements is read many times faster than as many lines; one of all of them takes long to scan. */
const ELEMENTS_PER_LINE = 1000;

const elements = (set: string, all: readonly string[], verb: "add" | "delete" = "add"): readonly string[] =>
  Array.from(
    { length: Math.ceil(all.length / ELEMENTS_PER_LINE) },
    (_, i) =>
      `${verb} element ${TABLE} ${set} { ${all.slice(i * ELEMENTS_PER_LINE, (i + 1) * ELEMENTS_PER_LINE).join(", ")} }`,
  );
