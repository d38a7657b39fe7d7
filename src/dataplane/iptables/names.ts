// What kube-proxy calls its chains: a prefix that says what the chain is for, and a hash of the Service port (and the
// endpoint); and its counters. Others have come to rely on these names, so they are kube-proxy's to the letter.
import { createHash } from "node:crypto"; // pure: the same text has the same hash everywhere
import { formatHostPort } from "../../model/address.ts";
import type { Backend, ServicePortName } from "../../model/desired.ts";

export const KUBE_SERVICES = "KUBE-SERVICES";
export const KUBE_EXTERNAL_SERVICES = "KUBE-EXTERNAL-SERVICES";
export const KUBE_FORWARD = "KUBE-FORWARD";
export const KUBE_NODEPORTS = "KUBE-NODEPORTS";
export const KUBE_PROXY_FIREWALL = "KUBE-PROXY-FIREWALL";
/** kubelet's, which kube-proxy fills as well. */
export const KUBE_FIREWALL = "KUBE-FIREWALL";
export const KUBE_POSTROUTING = "KUBE-POSTROUTING";
export const KUBE_MARK_MASQ = "KUBE-MARK-MASQ";
/** Empty, in every table: that it is gone shows that somebody flushed the rules. */
export const KUBE_PROXY_CANARY = "KUBE-PROXY-CANARY";

/** Packet counters (nfacct), which have names of their own. */
export const INVALID_DROPPED = "ct_state_invalid_dropped_pkts";
export const LOCALHOST_ACCEPTED = "localhost_nps_accepted_pkts";
export const COUNTERS = [INVALID_DROPPED, LOCALHOST_ACCEPTED] as const;

/** The chains of one Service port. */
export interface ServiceChains {
  /** Every endpoint: policy Cluster. */
  readonly cluster: string;
  /** Endpoints of this node: policy Local. */
  readonly local: string;
  /** Traffic to NodePorts, external IPs and load balancers. */
  readonly external: string;
  /** Source ranges. */
  readonly firewall: string;
}

export const serviceChains = (name: ServicePortName): ServiceChains => {
  const hash = hashOf(serviceText(name) + protocolText(name));
  return {
    cluster: `KUBE-SVC-${hash}`,
    local: `KUBE-SVL-${hash}`,
    external: `KUBE-EXT-${hash}`,
    firewall: `KUBE-FW-${hash}`,
  };
};

export const endpointChain = (name: ServicePortName, { address, port }: Pick<Backend, "address" | "port">): string =>
  `KUBE-SEP-${hashOf(serviceText(name) + protocolText(name) + formatHostPort(address, port))}`;

/** A chain that belongs to one Service port: removed when nothing uses it any more. */
export const isServiceChain = (chain: string): boolean => /^KUBE-(SVC|SVL|EXT|FW|SEP)-/.test(chain);

/** As comments name a Service port: `shop/web:http`, `shop/web`. */
export const serviceText = ({ namespace, name, port }: ServicePortName): string =>
  `${namespace}/${name}${port === "" ? "" : `:${port}`}`;

/** As iptables calls it: `tcp`. */
export const protocolText = ({ protocol }: Pick<ServicePortName, "protocol">): string => protocol.toLowerCase();

/** The first 16 characters of base32 (RFC 4648) of SHA-256. */
const hashOf = (text: string): string => base32(createHash("sha256").update(text).digest().subarray(0, 10));

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/** Five bits a character; the length in bits is a multiple of five. */
const base32 = (bytes: Uint8Array): string => {
  const bits = Array.from(bytes, (byte) => byte.toString(2).padStart(8, "0")).join("");
  return (bits.match(/.{5}/g) ?? []).map((five) => ALPHABET[Number.parseInt(five, 2)]).join("");
};
