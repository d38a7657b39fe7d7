// What the kernel prints of rules reads back as what they were written for: iptables-save of both flavours, and nft -j of
// both layouts of kube-proxy's nftables mode. The programs are the real ones, in a namespace of the test's own.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import fc from "fast-check";
import { compile } from "../../src/compile/compile.ts";
import { compare } from "../../src/compile/difference.ts";
import { formatDesired } from "../../src/compile/format.ts";
import { type Reading, wholeReading } from "../../src/compile/reading.ts";
import { readIptables } from "../../src/dataplane/iptables/readback.ts";
import { DEFAULT_RULE_OPTIONS, type RuleOptions, rulesOf } from "../../src/dataplane/iptables/rules.ts";
import { restoreInput } from "../../src/dataplane/iptables/text.ts";
import { readNftables } from "../../src/dataplane/nftables/readback.ts";
import { makePrefix } from "../../src/model/address.ts";
import type { Desired } from "../../src/model/desired.ts";
import { address, arbitrarySnapshot, options } from "../lib/snapshots.ts";

const netns = `beeline-readback-${process.pid}`;
execFileSync("ip", ["netns", "add", netns]);
after(() => execFileSync("ip", ["netns", "del", netns]));
process.on("exit", () => spawnSync("ip", ["netns", "del", netns]));

const run = (program: string, args: readonly string[], input = ""): string => {
  const argv = [`--net=/run/netns/${netns}`, program, ...args];
  const { status, stdout, stderr } = spawnSync("nsenter", argv, { input, encoding: "utf8" });
  assert.equal(status, 0, `${program}: ${stderr}${input}`);
  return stdout;
};

const withDetector: RuleOptions = {
  ...DEFAULT_RULE_OPTIONS,
  localDetector: {
    kind: "cidr",
    IPv4: makePrefix(address("10.244.0.0"), 16),
    IPv6: makePrefix(address("fd00::"), 16),
  },
};

/** Written, loaded in place of what was there, printed by iptables-save and read. */
const throughKernel = (desired: Desired, flavour: "legacy" | "nft", how: RuleOptions): Reading =>
  readIptables(
    (["IPv4", "IPv6"] as const).map((family) => {
      const base = `${family === "IPv4" ? "iptables" : "ip6tables"}-${flavour}`;
      run(`${base}-restore`, [], restoreInput(rulesOf(desired, family, how)));
      return { text: run(`${base}-save`, []), name: base, family };
    }),
    { from: flavour, localAddresses: options.localAddresses },
  );

for (const flavour of ["legacy", "nft"] as const) {
  test(`iptables-${flavour}: whatever a node should do reads back from the kernel`, () => {
    fc.assert(
      fc.property(arbitrarySnapshot, fc.constantFrom(DEFAULT_RULE_OPTIONS, withDetector), (snapshot, how) => {
        const { desired } = compile(snapshot, options);
        const reading = throughKernel(desired, flavour, how);
        // Nobody jumps to these chains here.
        const { differences } = compare(wholeReading("desired", "a test", desired), { ...reading, unreached: [] });
        assert.deepEqual(differences, []);
        const strange = reading.problems.filter(({ message }) => !message.includes("pods are not told"));
        assert.deepEqual(strange, []);
      }),
      { numRuns: 20 },
    );
  });
}

/** What the five Services of both files come to. */
const FIVE_SERVICES = `node 192.168.0.2

ns1/svc1:p80/TCP
  10.180.0.1:80 active
  10.180.0.2:80 active
  ClusterIP 172.30.0.41:80 → 10.180.0.1:80 10.180.0.2:80

ns2/svc2:p80/TCP
  10.180.0.2:80 active
  ClusterIP 172.30.0.42:80 → 10.180.0.2:80
  ExternalIP 192.168.99.22:80
    internal → 10.180.0.2:80
    external (Local) → drop: no local endpoints
  NodePort IPv4 3001
    internal → 10.180.0.2:80
    external (Local) → drop: no local endpoints

ns3/svc3:p80/TCP
  10.180.0.3:80 local active
  10.180.1.3:80 active
  ClusterIP 172.30.0.43:80 (Local) → 10.180.0.3:80
  ExternalIP 1.2.3.4:80 → 10.180.0.3:80 10.180.1.3:80
  NodePort IPv4 3003 → 10.180.0.3:80 10.180.1.3:80

ns5/svc5:p80/TCP  affinity 10800s  only from 192.168.0.0/24 203.0.113.0/25 5.6.7.8/32
  10.180.0.3:80 active
  ClusterIP 172.30.0.45:80 → 10.180.0.3:80
  LoadBalancer 5.6.7.8:80 restricted → 10.180.0.3:80

ns6/svc6/UDP
  ClusterIP 172.30.0.46:53 → reject: no endpoints
`;

const ruleset = (version: string): string =>
  readFileSync(new URL(`kube-proxy-${version}.nft`, import.meta.url), "utf8");

const throughNft = (text: string, localAddresses: readonly string[] | null = null): Reading => {
  run("nft", ["-f", "-"], `flush ruleset\n${text}`);
  const listing = run("nft", ["-j", "list", "ruleset"]);
  return readNftables([listing], { from: "nft", localAddresses: localAddresses?.map(address) ?? null, families: null });
};

for (const version of ["1.35", "1.36"]) {
  test(`nftables, the layout of ${version}: every map and chain is read`, () => {
    const reading = throughNft(ruleset(version));
    assert.equal(formatDesired(reading.desired), FIVE_SERVICES);
    assert.deepEqual([reading.problems, reading.unreached, reading.expresses.families], [[], [], ["IPv4"]]);
  });

  test(`nftables, the layout of ${version}, in IPv6: the same in the other table`, () => {
    const v6 = ruleset(version)
      .replaceAll(/\b(\d+)\.(\d+)\.(\d+)\.(\d+)\b/g, "fd00:$1:$2:$3::$4")
      .replaceAll(/dnat to (fd00[0-9a-f:]+::\d+):80/g, "dnat to [$1]:80")
      .replaceAll(/(fd00[0-9a-f:]*::\d+)\/(\d+) (jump|goto|ip6? )/g, "$1/64 $3")
      .replaceAll(/(fd00:[0-9a-f:]*::0)\/\d+/g, "$1/64")
      .replaceAll("table ip kube-proxy", "table ip6 kube-proxy")
      .replaceAll("ipv4_addr", "ipv6_addr")
      .replaceAll(/\bip (s|d)addr/g, "ip6 $1addr")
      .replaceAll("dnat ip addr", "dnat ip6 addr");
    const reading = throughNft(v6);
    assert.deepEqual([reading.problems, reading.unreached, reading.expresses.families], [[], [], ["IPv6"]]);
    const shown = formatDesired(reading.desired);
    assert.match(shown, /ClusterIP \[fd00:172:30::41\]:80 → \[fd00:10:180::1\]:80 \[fd00:10:180::2\]:80/);
    assert.match(shown, /LoadBalancer \[fd00:5:6:7::8\]:80 restricted/);
    assert.match(shown, /NodePort IPv6 3003/);
  });

  test(`nftables, the layout of ${version}: what somebody took away is named`, () => {
    const text = ruleset(version);
    const without = (line: RegExp): Reading => throughNft(text.replace(line, ""));
    assert.deepEqual(without(/^\t\tjump services$/m).unreached, ["IPv4: hook prerouting does not jump to services"]);
    assert.deepEqual(without(/^.*vmap @service-nodeports$/m).unreached, [
      "IPv4: chain services does not ask service-nodeports",
    ]);
    const flushed = without(/^\t\t(numgen|meta l4proto).*10\.180\.0\.1[:/ ].*10\.180\.0\.2.*$/m);
    assert.match(flushed.problems[0]?.message ?? "", /172\.30\.0\.41:80\/TCP of ns1\/svc1:p80 leads to no endpoint/);
    const custom = throughNft(
      text.replace("chain service-42NFTM6N-ns2/svc2/tcp/p80 {", "$& \nlimit rate 1/second drop"),
    );
    assert.match(
      custom.problems[0]?.message ?? "",
      /^service-42NFTM6N-ns2\/svc2\/tcp\/p80 has a rule of somebody else's/,
    );
    assert.equal(formatDesired(custom.desired), FIVE_SERVICES);
  });

  test(`nftables, the layout of ${version}: at every local address but the loopback's`, () => {
    const text = ruleset(version).replaceAll(
      "ip daddr @nodeport-ips meta",
      "fib daddr type local ip daddr != 127.0.0.0/8 meta",
    );
    assert.equal(throughNft(text).expresses.nodeAddresses, "none");
    const { desired } = throughNft(text, ["127.0.0.1", "192.0.2.11", "::1", "2001:db8::11"]);
    assert.deepEqual(
      desired.nodeAddresses.map((one) => one.address),
      ["192.0.2.11"],
    );
  });
}
