// What iptables-save says, as far as the writer needs it: which chains there are, who jumps where, and the lines that
// take kube-proxy's rules away. Pure. readback.ts reads all of it.
import { JUMPS, type Table } from "./jumps.ts";
import { isServiceChain, KUBE_FIREWALL, KUBE_MARK_MASQ, KUBE_PROXY_CANARY } from "./names.ts";

export const chainsIn = (saved: string): readonly string[] =>
  [...saved.matchAll(/^:(\S+) /gm)].map((match) => match[1] ?? "");

/** Chains of Services that rules of other chains than ours jump to, each with one such chain. */
export const strangersJumps = (saved: string): ReadonlyMap<string, string> =>
  new Map(jumpsIn(saved).flatMap(({ from, to }) => (isOurs(from) || !isOurs(to) ? [] : [[to, from] as const])));

/**
 * The restore input that removes kube-proxy's rules from a table, and what it says is removed; null: there are none.
 * What a stranger's rule still uses stays, and so does kubelet's KUBE-FIREWALL.
 */
export const removal = (
  table: Table,
  saved: string,
): { readonly input: string; readonly removed: readonly string[]; readonly kept: readonly string[] } | null => {
  const jumps = jumpsIn(saved).filter((jump) => jump.to !== KUBE_FIREWALL && isEntrance(table, jump));
  const rest = strangersJumps(
    saved
      .split("\n")
      .filter((line) => !jumps.some((jump) => jump.line === line))
      .join("\n"),
  );
  const ours = chainsIn(saved).filter((chain) => isOurs(chain) && chain !== KUBE_FIREWALL);
  const removed = ours.filter((chain) => !rest.has(chain));
  if (ours.length === 0 && jumps.length === 0) return null;
  const lines = [
    `*${table}`,
    ...ours.map((chain) => `:${chain} - [0:0]`),
    ...jumps.map(({ line }) => line.replace(/^-A/, "-D")),
    ...removed.map((chain) => `-X ${chain}`),
    "COMMIT",
  ];
  return { input: `${lines.join("\n")}\n`, removed, kept: ours.filter((chain) => rest.has(chain)) };
};

interface SavedJump {
  readonly line: string;
  readonly from: string;
  readonly to: string;
}

const jumpsIn = (saved: string): readonly SavedJump[] =>
  saved.split("\n").flatMap((line) => {
    const [, from, to] = /^-A (\S+) (?:.* )?-[jg] (\S+)/.exec(line.replace(QUOTED, '""')) ?? [];
    return from === undefined || to === undefined ? [] : [{ line, from, to }];
  });

/** A comment may say anything. */
const QUOTED = /"(?:[^"\\]|\\.)*"/g;

/** One of kube-proxy's own jumps. */
const isEntrance = (table: Table, { from, to }: SavedJump): boolean =>
  JUMPS.some((jump) => jump.table === table && jump.from === from && jump.to === to);

const SHARED: ReadonlySet<string> = new Set([...JUMPS.map(({ to }) => to), KUBE_MARK_MASQ, KUBE_PROXY_CANARY]);

const isOurs = (chain: string): boolean => isServiceChain(chain) || SHARED.has(chain);
