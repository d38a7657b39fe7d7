// What on a node may refuse, change or send elsewhere the packets that it forwards: with such a thing there, packets of
// Services have to pass it, so they go through the kernel. Pure.

export interface Obstacle {
  /** `nftables ip filter, chain cali-FORWARD`, `IP rules`. */
  readonly where: string;
  /** `-m mark ! --mark 0x1/0x1 -j DROP`, `policy drop`. */
  readonly what: string;
}

export const obstacleText = ({ where, what }: Obstacle): string => `${where}: ${what}`;

/** A chain of either kind of rules, for the walk. */
export interface WalkedChain {
  /** Each what it does to a packet that it matches. */
  readonly rules: readonly WalkedRule[];
}

export interface WalkedRule {
  /** For people. */
  readonly text: string;
  /** Refuses, changes, marks, queues: whatever is more than accepting, counting and logging. */
  readonly matters: boolean;
  /** Chains that it goes on in. */
  readonly targets: readonly string[];
}

/** Rules that matter in what can be reached from these chains, each once, in order; at most `most` of them. */
export const walk = (
  entrances: readonly string[],
  chains: ReadonlyMap<string, WalkedChain>,
  isPassedOver: (chain: string) => boolean,
  most = 20,
): readonly { readonly chain: string; readonly text: string }[] => {
  const found: { chain: string; text: string }[] = [];
  const seen = new Set<string>();
  const waiting = [...entrances];
  for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) {
    if (seen.has(name) || isPassedOver(name)) continue;
    seen.add(name);
    for (const rule of chains.get(name)?.rules ?? []) {
      if (rule.matters) found.push({ chain: name, text: rule.text });
      waiting.push(...rule.targets);
      if (found.length >= most) return found;
    }
  }
  return found;
};

/**
 * kube-proxy's chains and kubelet's, which say what Services say, and are passed over. By their whole names: kube-router's
 * begin with KUBE-, too (KUBE-ROUTER-FORWARD, KUBE-POD-FW-…, KUBE-NWPLCY-…), and they refuse.
 */
export const isKubeProxyChain = (chain: string): boolean =>
  KUBE_PROXY_CHAINS.has(chain) || /^KUBE-(SVC|SVL|EXT|FW|SEP|XLB)-[A-Z2-7]{16}$/.test(chain);

const KUBE_PROXY_CHAINS: ReadonlySet<string> = new Set([
  ...["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL"],
  ...["KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-MARK-DROP", "KUBE-PROXY-CANARY"],
  ...["KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT"],
  // kube-proxy's IPVS mode
  ...[
    "KUBE-LOAD-BALANCER",
    "KUBE-NODE-PORT",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
  ],
]);
