// Two readings compared: each kind of difference alone, what a side cannot say, and what is meant to be different.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { contestedEntrances } from "../../src/compile/claims.ts";
import { compile } from "../../src/compile/compile.ts";
import { compare, type Difference } from "../../src/compile/difference.ts";
import { INTENDED } from "../../src/compile/intended.ts";
import { EXPRESSIBLE, type Reading, type SourceKind, silences, wholeReading } from "../../src/compile/reading.ts";
import { makePrefix } from "../../src/model/address.ts";
import type { Desired, DesiredService } from "../../src/model/desired.ts";
import type { EndpointSlice, Service } from "../../src/model/snapshot.ts";
import { address, endpoint, options, service, slice, snapshot } from "../lib/snapshots.ts";

const loadBalancer: Partial<Service> = {
  type: "LoadBalancer",
  loadBalancerIPs: [address("198.51.100.7")],
  ports: [{ name: "", protocol: "TCP", port: 80, nodePort: 30080 }],
};
const two = [slice([endpoint("10.244.1.2"), endpoint("10.244.2.2", { nodeName: "node-b" })])];

const desired = (fields: Partial<Service>, slices: readonly EndpointSlice[] = two): Desired =>
  compile(snapshot([service(fields)], slices), options).desired;

/** A Desired as if it had been read from such a source. */
const reading = (source: SourceKind, value: Desired, more: Partial<Reading> = {}): Reading => ({
  ...wholeReading("desired", source, value),
  source,
  expresses: EXPRESSIBLE[source],
  ...more,
});

/** `backends 10.96.0.1:80/TCP inside: 10.244.1.2:8080 | -`. */
const words = ({ kind, frontend, clients, left, right }: Difference): string => {
  const side = (texts: readonly string[]): string => (texts.length === 0 ? "-" : texts.join(" "));
  return `${kind} ${[frontend, clients].filter((word) => word !== null).join(" ")}: ${side(left)} | ${side(right)}`;
};

const found = (left: Reading, right: Reading): readonly string[] => compare(left, right).differences.map(words);
const intended = (left: Reading, right: Reading): readonly string[] =>
  compare(left, right).intended.map((one) => `${one.intended} ${words(one)}`);

const bpf = (value: Desired): Reading => reading("bpf", value);
const iptables = (value: Desired, more: Partial<Reading> = {}): Reading => reading("iptables", value, more);

/** With one field of the only service changed. */
const altered = (value: Desired, change: (service: DesiredService) => DesiredService): Desired => ({
  ...value,
  services: new Map([...value.services].map(([key, one]) => [key, change(one)])),
});

test("equal readings have no difference, of whatever source", () => {
  const value = desired({ ...loadBalancer, externalTrafficPolicy: "Local" });
  for (const source of ["bpf", "iptables", "nftables"] as const) {
    assert.deepEqual(compare(bpf(value), reading(source, value)), { differences: [], intended: [] });
    assert.deepEqual(compare(reading(source, value), bpf(value)), { differences: [], intended: [] });
  }
});

test("a service on one side only, each frontend by itself", () => {
  assert.deepEqual(found(bpf(desired(loadBalancer)), bpf(desired({}))), [
    "only_left 198.51.100.7:80/TCP: LoadBalancer: 2 backends | -",
    "only_left IPv4 NodePort 30080/TCP: NodePort: 2 backends | -",
  ]);
  const none: Desired = { services: new Map(), nodeAddresses: desired({}).nodeAddresses };
  assert.deepEqual(found(bpf(none), bpf(desired({}, []))), ["only_right 10.96.0.1:80/TCP: - | ClusterIP: refused"]);
});

test("backends: which ones, in either order of the same", () => {
  const one = desired({}, [slice([endpoint("10.244.1.2")])]);
  const other = desired({}, [slice([endpoint("10.244.1.2"), endpoint("10.244.9.9")])]);
  assert.deepEqual(found(bpf(one), bpf(other)), ["backends 10.96.0.1:80/TCP: - | 10.244.9.9:8080"]);
  const turned = altered(other, (one) => ({
    ...one,
    frontends: one.frontends.map((f) =>
      f.internal.kind === "backends"
        ? { ...f, internal: { ...f.internal, backends: f.internal.backends.toReversed() } }
        : f,
    ),
  }));
  assert.deepEqual(found(bpf(other), bpf(turned)), []);
});

test("traffic policy, and the backends it leaves", () => {
  const cluster = desired(loadBalancer);
  const local = desired({ ...loadBalancer, externalTrafficPolicy: "Local" });
  assert.deepEqual(found(iptables(cluster), bpf(local)), [
    "policy 198.51.100.7:80/TCP outside: Cluster | Local",
    "backends 198.51.100.7:80/TCP outside: 10.244.2.2:8080 | -",
    "policy IPv4 NodePort 30080/TCP outside: Cluster | Local",
    "backends IPv4 NodePort 30080/TCP outside: 10.244.2.2:8080 | -",
  ]);
});

test("refused here, dropped there, served elsewhere", () => {
  const remote = [slice([endpoint("10.244.2.2", { nodeName: "node-b" })])];
  const dropped = desired({ internalTrafficPolicy: "Local" }, remote);
  assert.deepEqual(found(bpf(dropped), iptables(desired({}, []))), ["verdict 10.96.0.1:80/TCP: dropped | refused"]);
  assert.deepEqual(found(bpf(desired({}, [])), iptables(desired({}))), [
    "verdict 10.96.0.1:80/TCP: refused | 2 backends",
  ]);
});

test("affinity, health check port, node addresses, hooks", () => {
  const value = desired(loadBalancer);
  const sticky = desired({ ...loadBalancer, affinity_timeout_s: 600 });
  assert.deepEqual(found(bpf(value), iptables(sticky)), ["affinity : none | 600s"]);
  const checked = altered(value, (one) => ({ ...one, healthCheckNodePort: 32000 }));
  assert.deepEqual(found(bpf(value), iptables(checked)), ["health_check : none | port 32000"]);
  const moved: Desired = { ...value, nodeAddresses: value.nodeAddresses.filter(({ loopback }) => !loopback) };
  assert.deepEqual(found(bpf(value), iptables(moved)), ["node_addresses : 127.0.0.1 | -"]);
  const loose = iptables(value, { unreached: ["IPv4: OUTPUT of nat does not jump to KUBE-SERVICES"] });
  assert.deepEqual(found(bpf(value), loose), ["unreached : - | IPv4: OUTPUT of nat does not jump to KUBE-SERVICES"]);
});

test("what only the maps know is compared between maps and desired", () => {
  const value = desired({});
  const drains = altered(value, (one) => ({
    ...one,
    backends: [...one.backends, { address: address("10.244.3.3"), port: 8080, local: false, state: "draining" }],
  }));
  assert.deepEqual(found(bpf(value), bpf(drains)), ["draining : - | 10.244.3.3:8080"]);
  assert.deepEqual(found(bpf(value), iptables(drains)), []);
  const local = altered(value, (one) => ({ ...one, backends: one.backends.map((b) => ({ ...b, local: true })) }));
  assert.deepEqual(found(bpf(value), bpf(local)), ["local : - | 10.244.2.2:8080"]);
  assert.deepEqual(found(bpf(value), iptables(local)), []);
  const policy = altered(value, (one) => ({ ...one, externalTrafficPolicy: "Local" }));
  assert.deepEqual(found(bpf(value), bpf(policy)), ["policy : external Cluster | external Local"]);
  assert.deepEqual(found(bpf(value), iptables(policy)), []);
});

test("source ranges: the same addresses in other words are the same", () => {
  const ranges = (...texts: readonly string[]): Desired =>
    desired({
      ...loadBalancer,
      sourceRanges: texts.map((text) => {
        const [net = "", bits] = text.split("/");
        return makePrefix(address(net), Number(bits));
      }),
    });
  const whole = ranges("10.0.0.0/8");
  assert.deepEqual(found(bpf(whole), iptables(ranges("10.0.0.0/9", "10.128.0.0/9"))), []);
  assert.deepEqual(found(bpf(whole), iptables(ranges("10.0.0.0/8", "10.1.0.0/16"))), []);
  assert.deepEqual(found(bpf(whole), iptables(ranges("10.0.0.0/8", "198.51.100.7/32"))), []);
  assert.deepEqual(found(bpf(ranges("0.0.0.0/0")), iptables(desired(loadBalancer))), []);
  assert.deepEqual(found(bpf(whole), iptables(ranges("10.0.0.0/9"))), [
    "source_ranges 198.51.100.7:80/TCP: 10.0.0.0/8 | 10.0.0.0/9",
  ]);
  assert.deepEqual(found(bpf(whole), iptables(desired(loadBalancer))), [
    "source_ranges 198.51.100.7:80/TCP: 10.0.0.0/8 | everybody",
  ]);
});

test("a frontend that refuses says nothing of kind, policy, affinity and ranges in rules", () => {
  const refusing = desired({ ...loadBalancer, externalTrafficPolicy: "Local", affinity_timeout_s: 600 }, []);
  const asRead = desired({ externalIPs: [address("198.51.100.7")], ports: loadBalancer.ports ?? [] }, []);
  assert.deepEqual(found(bpf(refusing), iptables(asRead)), []);
  assert.notDeepEqual(found(bpf(refusing), bpf(asRead)), []);
});

test("IPVS: no names, no kinds, one NodePort for each address, local backends where there are some", () => {
  const value = desired({ ...loadBalancer, externalTrafficPolicy: "Local" });
  const [mine] = [...value.services.values()];
  assert.ok(mine);
  const place = (text: string, port: number, backends: number) => ({
    ...mine,
    name: { namespace: "", name: `${text}:${port}`, port: "", protocol: "TCP" as const },
    frontends: [
      {
        kind: "ClusterIP" as const,
        family: "IPv4" as const,
        address: address(text),
        port,
        restricted: false,
        internal: { kind: "backends" as const, policy: "Cluster" as const, backends: mine.backends.slice(0, backends) },
        external: { kind: "backends" as const, policy: "Cluster" as const, backends: mine.backends.slice(0, backends) },
      },
    ],
  });
  const servers = [place("10.96.0.1", 80, 2), place("198.51.100.7", 80, 1), place("192.0.2.11", 30080, 1)];
  const services = (list: readonly DesiredService[]) =>
    new Map(list.map((one) => [`${one.name.name}` as never, one] as const));
  const ipvs = (list: readonly DesiredService[]): Reading =>
    reading("ipvs", { services: services(list), nodeAddresses: [] });
  assert.deepEqual(found(bpf(value), ipvs(servers)), []);
  assert.deepEqual(found(bpf(value), ipvs(servers.slice(0, 2))), [
    "only_left 192.0.2.11:30080/TCP: NodePort: inside 2 backends, outside 1 backend | -",
  ]);
  assert.deepEqual(found(bpf(value), ipvs([place("10.96.0.1", 80, 1), ...servers.slice(1)])), [
    "backends 10.96.0.1:80/TCP: 10.244.2.2:8080 | -",
  ]);
});

test("an address of two services: another owner is a difference, by design where both asked for it", () => {
  const shop = { namespace: "shop", clusterIPs: [address("10.96.0.2")], externalIPs: [address("198.51.100.9")] };
  const bank = { ...shop, namespace: "bank", clusterIPs: [address("10.96.0.3")] };
  const owned = (owner: Partial<Service>, other: Partial<Service>): Desired =>
    compile(snapshot([service(owner), service({ ...other, externalIPs: [] })]), options).desired;
  const [left, right] = [owned(shop, bank), owned(bank, shop)];
  assert.deepEqual(found(bpf(left), iptables(right)), ["service 198.51.100.9:80/TCP: shop/web | bank/web"]);
  const contested = contestedEntrances([service(shop), service(bank)]);
  assert.deepEqual([...contested], ["198.51.100.9:80/TCP"]);
  assert.deepEqual(found(bpf(left), iptables(right, { contested })), []);
  assert.deepEqual(intended(bpf(left), iptables(right, { contested })), [
    "10 service 198.51.100.9:80/TCP: shop/web | bank/web",
  ]);
});

test("by design: ranges without endpoints, ranges behind an external IP, endpoints at ClusterIPs, SCTP, link-local", () => {
  const ranges = { ...loadBalancer, sourceRanges: [makePrefix(address("203.0.113.0"), 24)] };
  assert.deepEqual(intended(bpf(desired(ranges, [])), iptables(desired(loadBalancer, []))), [
    "7 source_ranges 198.51.100.7:80/TCP: others than 203.0.113.0/24 dropped | everybody refused",
  ]);
  const open = altered(desired(ranges), (one) => ({
    ...one,
    frontends: one.frontends.map((frontend) => ({ ...frontend, restricted: false })),
  }));
  assert.deepEqual(intended(bpf(desired(ranges)), iptables(open)), [
    "8 source_ranges 198.51.100.7:80/TCP: 203.0.113.0/24 | everybody",
  ]);
  const looped = altered(desired({}), (one) => {
    const loop = { address: address("10.96.0.1"), port: 8080, local: false, state: "active" as const };
    const frontends = one.frontends.map((frontend) => {
      const list = { kind: "backends" as const, policy: "Cluster" as const, backends: [...one.backends, loop] };
      return { ...frontend, internal: list, external: list };
    });
    return { ...one, frontends };
  });
  assert.deepEqual(intended(bpf(desired({})), iptables(looped)), ["11 backends 10.96.0.1:80/TCP: - | 10.96.0.1:8080"]);
  assert.deepEqual(found(iptables(desired({})), iptables(looped)), ["backends 10.96.0.1:80/TCP: - | 10.96.0.1:8080"]);
  const sctp = desired({ ports: [{ name: "", protocol: "SCTP", port: 80, nodePort: null }] }, []);
  assert.deepEqual(intended(bpf(sctp), iptables(sctp)), ["4 verdict 10.96.0.1:80/SCTP: not translated | translated"]);
  const value = desired(loadBalancer);
  const linked = {
    ...value,
    nodeAddresses: [
      ...value.nodeAddresses,
      { address: address("fe80::1"), loopback: false, primary: false, nodePorts: true },
    ],
  };
  assert.deepEqual(intended(bpf(value), iptables(linked)), ["13 node_addresses : - | fe80::1"]);
});

test("a family that a source does not know, and refusals that it cannot see, are not compared", () => {
  const both = desired({ clusterIPs: [address("10.96.0.1"), address("fd00:96::1")] });
  const single = desired({});
  const v4 = iptables(single, { expresses: { ...EXPRESSIBLE.iptables, families: ["IPv4"] } });
  assert.deepEqual(found(bpf(both), v4), []);
  assert.deepEqual(found(bpf(both), iptables(single)), ["only_left [fd00:96::1]:80/TCP: ClusterIP: refused | -"]);
  const nat = iptables({ ...single, services: new Map() }, { expresses: { ...EXPRESSIBLE.iptables, refusals: false } });
  assert.deepEqual(found(bpf(desired({}, [])), nat), []);
  assert.deepEqual(silences(EXPRESSIBLE.bpf), []);
  assert.deepEqual(silences(v4.expresses), ["IPv6", "which backends are local", "backends that drain"]);
});

test("the intended differences are numbered and named as docs/semantics.md does", () => {
  const text = readFileSync(new URL("../../docs/semantics.md", import.meta.url), "utf8");
  const listed = [...text.slice(text.indexOf("## Intended differences")).matchAll(/^(\d+)\. \*\*([^*]+)\*\*/gm)];
  assert.deepEqual(
    listed.map(([, number, title]) => [number, title?.replaceAll(/\s+/g, " ")]),
    Object.entries(INTENDED),
  );
});
