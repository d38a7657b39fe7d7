import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Kind, type ParseResult, parseKind, parseObject } from "../../src/k8s/parse.ts";
import type { EndpointSlice, Service } from "../../src/model/snapshot.ts";

const service = (spec: object, more: { metadata?: object; status?: object } = {}): ParseResult =>
  parseObject({
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: "web", namespace: "shop", ...more.metadata },
    spec: { clusterIP: "10.0.0.1", ports: [{ port: 80 }], ...spec },
    status: more.status,
  });

const slice = (fields: object, labels: object = { "kubernetes.io/service-name": "web" }): ParseResult =>
  parseObject({
    apiVersion: "discovery.k8s.io/v1",
    kind: "EndpointSlice",
    metadata: { name: "web-1", namespace: "shop", labels },
    addressType: "IPv4",
    ports: [{ name: "", port: 8080, protocol: "TCP" }],
    endpoints: [],
    ...fields,
  });

const serviceIn = (result: ParseResult): Service => {
  assert.ok(result.parsed.kind === "Service", JSON.stringify(result));
  return result.parsed.value;
};

const sliceIn = (result: ParseResult): EndpointSlice => {
  assert.ok(result.parsed.kind === "EndpointSlice", JSON.stringify(result));
  return result.parsed.value;
};

/** `path: message` of each problem. */
const said = ({ problems }: ParseResult): readonly string[] =>
  problems.map(({ path, message }) => `${path}: ${message}`);

test("A plain Service has the API's defaults", () => {
  const result = service({});
  assert.deepEqual(result.problems, []);
  assert.deepEqual(serviceIn(result), {
    namespace: "shop",
    name: "web",
    uid: "",
    created_ms: 0,
    skip: null,
    type: "ClusterIP",
    clusterIPs: ["10.0.0.1"],
    externalIPs: [],
    loadBalancerIPs: [],
    sourceRanges: [],
    internalTrafficPolicy: "Cluster",
    externalTrafficPolicy: "Cluster",
    affinity_timeout_s: 0,
    healthCheckNodePort: null,
    ports: [{ name: "", protocol: "TCP", port: 80, nodePort: null }],
  });
});

test("A Service with everything is read in full", () => {
  const result = service(
    {
      type: "LoadBalancer",
      clusterIP: "10.0.0.1",
      clusterIPs: ["10.0.0.1", "FD00:0::1"],
      externalIPs: ["192.0.2.1", " 192.0.2.2", "192.0.2.1"],
      loadBalancerSourceRanges: [" 203.0.113.7/24", "2001:db8::1/32"],
      internalTrafficPolicy: "Local",
      externalTrafficPolicy: "Local",
      healthCheckNodePort: 32000,
      sessionAffinity: "ClientIP",
      sessionAffinityConfig: { clientIP: { timeoutSeconds: 60 } },
      ports: [
        { name: "dns", port: 53, protocol: "UDP", nodePort: 30053 },
        { name: "dns-tcp", port: 53, protocol: "TCP", nodePort: 0 },
        { name: "sctp", port: 53, protocol: "SCTP", nodePort: null },
      ],
    },
    {
      metadata: { uid: "u-1", creationTimestamp: "2026-01-02T03:04:05Z" },
      status: {
        loadBalancer: {
          ingress: [
            { ip: "198.51.100.1" },
            { ip: "198.51.100.2", ipMode: "VIP" },
            { ip: "198.51.100.3", ipMode: "Proxy" },
            { hostname: "lb.example.com" },
            {},
          ],
        },
      },
    },
  );
  assert.deepEqual(result.problems, []);
  const value = serviceIn(result);
  assert.deepEqual(value.clusterIPs, ["10.0.0.1", "fd00::1"]);
  assert.deepEqual(value.externalIPs, ["192.0.2.1", "192.0.2.2"]);
  assert.deepEqual(value.loadBalancerIPs, ["198.51.100.1", "198.51.100.2"]);
  assert.deepEqual(value.sourceRanges, ["203.0.113.0/24", "2001:db8::/32"]);
  assert.equal(value.healthCheckNodePort, 32000);
  assert.equal(value.affinity_timeout_s, 60);
  assert.equal(value.uid, "u-1");
  assert.equal(value.created_ms, Date.UTC(2026, 0, 2, 3, 4, 5));
  assert.deepEqual(
    value.ports.map((p) => [p.name, p.protocol, p.port, p.nodePort]),
    [
      ["dns", "UDP", 53, 30053],
      ["dns-tcp", "TCP", 53, null],
      ["sctp", "SCTP", 53, null],
    ],
  );
});

for (const port of [0, -1, 65536, 70000, 80.5, "80", true, {}, Number.POSITIVE_INFINITY, Number.NaN]) {
  test(`Fault 1: a port ${JSON.stringify(port)} (${String(port)}) is dropped with a problem, the others stay`, () => {
    const result = service({
      ports: [
        { name: "bad", port },
        { name: "good", port: 443 },
      ],
    });
    assert.deepEqual(
      serviceIn(result).ports.map((p) => p.name),
      ["good"],
    );
    assert.equal(result.problems.length, 1);
    assert.deepEqual(result.problems[0]?.path, "spec.ports[0].port");
    assert.match(result.problems[0]?.message ?? "", /is not a port \(1\.\.65535\)$/);
    assert.equal(result.problems[0]?.object, "Service shop/web");
  });
}

test("Fault 1: a problem names the value: 1e400, null and a missing port too", () => {
  const raw = JSON.parse('{"ports":[{"name":"a","port":1e400},{"name":"b","port":null},{"name":"c"}]}') as object;
  assert.deepEqual(said(service(raw)), [
    "spec.ports[0].port: Infinity is not a port (1..65535)",
    "spec.ports[1].port: the port has no number",
    "spec.ports[2].port: the port has no number",
  ]);
});

test("A bad nodePort costs the nodePort alone", () => {
  const result = service({ type: "NodePort", ports: [{ port: 80, nodePort: 70000 }] });
  assert.deepEqual(serviceIn(result).ports, [{ name: "", protocol: "TCP", port: 80, nodePort: null }]);
  assert.deepEqual(said(result), ["spec.ports[0].nodePort: 70000 is not a port (1..65535)"]);
});

test("Faults 3 and 4: of two ports with one number and protocol the first stands; another protocol is another port", () => {
  const result = service({
    ports: [
      { name: "a", port: 53 },
      { name: "b", port: 53, protocol: "TCP" },
      { name: "c", port: 53, protocol: "UDP" },
      { name: "d", port: 53, protocol: "SCTP" },
    ],
  });
  assert.deepEqual(
    serviceIn(result).ports.map((p) => p.name),
    ["a", "c", "d"],
  );
  assert.deepEqual(said(result), ['spec.ports[1].port: 53 is taken by port "a" for TCP already']);
});

test("Fault 5: of two ports with one name, or none, the first stands", () => {
  const twice = service({
    ports: [
      { name: "a", port: 1 },
      { name: "a", port: 2 },
    ],
  });
  assert.deepEqual(
    serviceIn(twice).ports.map((p) => p.port),
    [1],
  );
  assert.deepEqual(said(twice), ['spec.ports[1].name: "a" names an earlier port already']);
  const unnamed = service({ ports: [{ port: 1 }, { name: "b", port: 2 }, { port: 3 }] });
  assert.deepEqual(
    serviceIn(unnamed).ports.map((p) => p.port),
    [1, 2],
  );
});

test("A port that is dropped reserves neither its name nor its number", () => {
  const result = service({
    ports: [
      { name: "a", port: 0 },
      { name: "a", port: 80 },
      { name: "UPPER", port: 81 },
      { name: "b", port: 81 },
    ],
  });
  assert.deepEqual(
    serviceIn(result).ports.map((p) => [p.name, p.port]),
    [
      ["a", 80],
      ["b", 81],
    ],
  );
});

for (const protocol of ["tcp", "ICMP", 6, {}]) {
  test(`The protocol ${JSON.stringify(protocol)} is none`, () => {
    const result = service({ ports: [{ port: 80, protocol }] });
    assert.deepEqual(serviceIn(result).ports, []);
    assert.match(said(result)[0] ?? "", /^spec\.ports\[0\]\.protocol: .* is not one of TCP, UDP, SCTP$/);
  });
}

for (const name of ["__proto__", "constructor", "a_b", "-a", "a".repeat(64), "ä", "a b", "\u001b[31m"]) {
  test(`Fault 29: the port name ${JSON.stringify(name)} is none, and harms nothing`, () => {
    const result = service({
      ports: [
        { name, port: 80 },
        { name: "ok", port: 81 },
      ],
    });
    assert.deepEqual(
      serviceIn(result).ports.map((p) => p.name),
      name === "constructor" ? ["constructor", "ok"] : ["ok"],
    );
    assert.ok(!said(result).join().includes("\u001b"), "nothing that a terminal would obey");
  });
}

test("Fault 29: __proto__ and constructor as labels and fields are data like any other", () => {
  const raw: unknown = JSON.parse(`{
    "apiVersion": "v1", "kind": "Service", "__proto__": {"spec": {"clusterIP": "10.6.6.6"}},
    "metadata": {"name": "web", "labels": {"__proto__": {"service.kubernetes.io/headless": ""}, "constructor": "x"}},
    "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80, "__proto__": {"nodePort": 30000}}]}
  }`);
  const value = serviceIn(parseObject(raw));
  assert.equal(value.skip, null);
  assert.deepEqual(value.clusterIPs, ["10.0.0.1"]);
  assert.equal(value.ports[0]?.nodePort, null);
});

const SKIPPED: readonly (readonly [string, object, object, Service["skip"]])[] = [
  ["clusterIP None", { clusterIP: "None" }, {}, "headless"],
  ["clusterIPs None", { clusterIP: undefined, clusterIPs: ["None"] }, {}, "headless"],
  ["None with a selector", { clusterIP: "None", selector: { a: "b" } }, {}, "headless"],
  ["the headless label", {}, { labels: { "service.kubernetes.io/headless": "" } }, "headless"],
  ["clusterIP empty", { clusterIP: "" }, {}, "no clusterIP"],
  ["no clusterIP", { clusterIP: undefined }, {}, "no clusterIP"],
  ["an unusable clusterIP", { clusterIP: "nonsense" }, {}, "no clusterIP"],
  ["ExternalName with a clusterIP left over", { type: "ExternalName" }, {}, "ExternalName"],
  ["a proxy's name", {}, { labels: { "service.kubernetes.io/service-proxy-name": "x" } }, "service-proxy-name"],
  ["an empty proxy's name", {}, { labels: { "service.kubernetes.io/service-proxy-name": "" } }, "service-proxy-name"],
];
for (const [what, spec, metadata, skip] of SKIPPED) {
  test(`Faults 14, 15, 16, 31: a Service with ${what} is skipped: ${skip}`, () => {
    assert.equal(serviceIn(service(spec, { metadata })).skip, skip);
  });
}

test("With a proxy name of our own, the label's value decides", () => {
  const raw = (value: string): object => ({
    kind: "Service",
    metadata: { name: "a", labels: { "service.kubernetes.io/service-proxy-name": value } },
    spec: { clusterIP: "10.0.0.1", ports: [{ port: 1 }] },
  });
  const options = { serviceProxyName: "mine" };
  assert.equal(serviceIn(parseObject(raw("mine"), options)).skip, null);
  assert.equal(serviceIn(parseObject(raw("other"), options)).skip, "service-proxy-name");
  assert.equal(
    serviceIn(parseKind("Service", { metadata: { name: "a" }, spec: {} }, options)).skip,
    "service-proxy-name",
  );
});

test("Fault 14: one cluster IP of each family, in the object's order", () => {
  const swapped = service({ clusterIP: "fd00::1", clusterIPs: ["fd00::1", "10.0.0.1"] });
  assert.deepEqual(serviceIn(swapped).clusterIPs, ["fd00::1", "10.0.0.1"]);
  const double = service({ clusterIPs: ["10.0.0.1", "10.0.0.2", "fd00::1"] });
  assert.deepEqual(serviceIn(double).clusterIPs, ["10.0.0.1", "fd00::1"]);
  assert.deepEqual(said(double), ['spec.clusterIPs[1]: "10.0.0.2" is a second IPv4 address']);
});

test("Fault 8: leading zeros and white space are read, everything else that is no canonical form of an address is not", () => {
  const result = service({
    clusterIP: "172.30.0.041",
    externalIPs: [" 192.0.2.01 ", "::ffff:192.0.2.1", "fe80::1%eth0", "0x7f.0.0.1", "192.0.2", 3221225985, null, {}],
  });
  assert.deepEqual(serviceIn(result).clusterIPs, ["172.30.0.41"]);
  assert.deepEqual(serviceIn(result).externalIPs, ["192.0.2.1"]);
  assert.deepEqual(
    result.problems.map((p) => p.path),
    [1, 2, 3, 4, 5, 7].map((i) => `spec.externalIPs[${i}]`),
  );
});

const SPECIAL: readonly (readonly [string, string])[] = [
  ["127.0.0.1", "loopback"],
  ["127.9.9.9", "loopback"],
  ["::1", "loopback"],
  ["0.0.0.0", "unspecified"],
  ["::", "unspecified"],
  ["169.254.169.254", "link-local"],
  ["fe80::1", "link-local"],
  ["febf::1", "link-local"],
  ["224.0.0.1", "multicast"],
  ["239.255.255.255", "multicast"],
  ["ff02::1", "multicast"],
  ["255.255.255.255", "broadcast"],
];
for (const [ip, what] of SPECIAL) {
  test(`Faults 9, 11: ${ip} (${what}) becomes neither endpoint nor frontend`, () => {
    const family = ip.includes(":") ? "IPv6" : "IPv4";
    const good = family === "IPv6" ? "fd00::5" : "10.1.0.5";
    const found = slice({ addressType: family, endpoints: [{ addresses: [ip] }, { addresses: [good] }] });
    assert.deepEqual(
      sliceIn(found).endpoints.map((e) => e.address),
      [good],
    );
    assert.match(said(found)[0] ?? "", new RegExp(`^endpoints\\[0\\]\\.addresses\\[0\\]: ".*" is .*${what} address$`));
    const external = service({ externalIPs: [ip] }, { status: { loadBalancer: { ingress: [{ ip }] } } });
    assert.deepEqual(serviceIn(external).externalIPs, []);
    assert.deepEqual(serviceIn(external).loadBalancerIPs, []);
    assert.equal(external.problems.length, 2);
  });
}

for (const ip of [
  "126.255.255.255",
  "128.0.0.1",
  "1.2.3.4",
  "223.255.255.255",
  "240.0.0.1",
  "fec0::1",
  "fe00::1",
  "::2",
  "fd00::1",
]) {
  test(`${ip} is an address like any other`, () => {
    assert.deepEqual(serviceIn(service({ externalIPs: [ip] })).externalIPs, [ip]);
  });
}

const RANGES: readonly (readonly [string, unknown, readonly string[]])[] = [
  ["absent: everybody", undefined, []],
  ["empty: everybody", [], []],
  ["everything", ["0.0.0.0/0"], ["0.0.0.0/0"]],
  ["host bits are cleared", ["10.1.2.3/8"], ["10.0.0.0/8"]],
  ["the other family alone leaves this one open", ["2001:db8::/32"], ["2001:db8::/32"]],
  ["a bad one beside a good one closes the other family", ["10.0.0.0/8", "bad"], ["10.0.0.0/8", "NOBODY6"]],
  ["a bad one beside good ones of both", ["10.0.0.0/8", "x", "fd00::/8"], ["10.0.0.0/8", "fd00::/8"]],
  ["a bad one alone closes both", ["10.0.0.0/33"], ["NOBODY4", "NOBODY6"]],
  ["a bare address is no range", ["10.0.0.1"], ["NOBODY4", "NOBODY6"]],
  ["not a list", "10.0.0.0/8", ["NOBODY4", "NOBODY6"]],
  ["not text", [5, null], ["NOBODY4", "NOBODY6"]],
  ["twice the same", ["10.0.0.0/8", "10.9.9.9/8"], ["10.0.0.0/8"]],
];
const NOBODY: Readonly<Record<string, string>> = {
  NOBODY4: "255.255.255.255/32",
  NOBODY6: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
};
for (const [what, loadBalancerSourceRanges, expected] of RANGES) {
  test(`Fault 18: source ranges: ${what}`, () => {
    const result = service({ loadBalancerSourceRanges });
    assert.deepEqual(
      serviceIn(result).sourceRanges,
      expected.map((range) => NOBODY[range] ?? range),
    );
    assert.equal(result.problems.length > 0, expected.some((range) => range in NOBODY) || what.includes("bad one"));
  });
}

const AFFINITY: readonly (readonly [unknown, number, boolean])[] = [
  [undefined, 10800, true],
  [null, 10800, true],
  [1, 1, true],
  [86400, 86400, true],
  [0, 10800, false],
  [-5, 10800, false],
  [86401, 86400, false],
  [1.5, 10800, false],
  ["60", 10800, false],
];
for (const [timeoutSeconds, expected, fine] of AFFINITY) {
  test(`Fault 19: an affinity timeout of ${JSON.stringify(timeoutSeconds)} is ${expected} s`, () => {
    const result = service({ sessionAffinity: "ClientIP", sessionAffinityConfig: { clientIP: { timeoutSeconds } } });
    assert.equal(serviceIn(result).affinity_timeout_s, expected);
    assert.equal(result.problems.length === 0, fine);
  });
}

test("Affinity None ignores the timeout left over", () => {
  const result = service({ sessionAffinity: "None", sessionAffinityConfig: { clientIP: { timeoutSeconds: 5 } } });
  assert.equal(serviceIn(result).affinity_timeout_s, 0);
});

test("A health check port is needed by a LoadBalancer with policy Local alone", () => {
  const of = (spec: object): number | null =>
    serviceIn(service({ healthCheckNodePort: 32000, ...spec })).healthCheckNodePort;
  assert.equal(of({ type: "LoadBalancer", externalTrafficPolicy: "Local" }), 32000);
  assert.equal(of({ type: "LoadBalancer" }), null);
  assert.equal(of({ type: "NodePort", externalTrafficPolicy: "Local" }), null);
  assert.equal(of({ type: "LoadBalancer", externalTrafficPolicy: "Local", healthCheckNodePort: 0 }), null);
});

test("Words that the API does not have are named, and the default stands", () => {
  const result = service({
    type: "Tunnel",
    internalTrafficPolicy: "local",
    externalTrafficPolicy: 7,
    sessionAffinity: "Cookie",
  });
  const value = serviceIn(result);
  assert.deepEqual(
    [value.type, value.internalTrafficPolicy, value.externalTrafficPolicy, value.affinity_timeout_s],
    ["ClusterIP", "Cluster", "Cluster", 0],
  );
  assert.equal(result.problems.length, 4);
});

for (const [name, namespace] of [
  ["a".repeat(64), "shop"],
  ["web.example", "shop"],
  ["Web", "shop"],
  ["", "shop"],
  ["web", "n".repeat(64)],
  ["web", "__proto__"],
  ["__proto__", "shop"],
  ["web", ""],
  ["we\nb", "shop"],
  [42, "shop"],
  ["web", []],
]) {
  test(`Fault 28: a Service called ${JSON.stringify(name)} in ${JSON.stringify(namespace)} is rejected and named`, () => {
    const result = service({}, { metadata: { name, namespace } });
    assert.equal(result.parsed.kind, "rejected");
    assert.equal(result.problems.length, 1);
    assert.match(result.problems[0]?.path ?? "", /^metadata\.name/);
    assert.ok(!/\n/.test(JSON.stringify(result.problems)));
  });
}

test("Names of 63 characters fit, slices may have 253 with dots", () => {
  const name = "a".repeat(63);
  assert.equal(serviceIn(service({}, { metadata: { name, namespace: name } })).name, name);
  const long = Array.from({ length: 4 }, () => "a".repeat(62)).join(".");
  assert.equal(
    sliceIn(slice({ metadata: { name: long, labels: { "kubernetes.io/service-name": "web" } } })).name,
    long,
  );
  assert.equal(
    slice({ metadata: { name: `${long}.aaaaaa`, labels: { "kubernetes.io/service-name": "web" } } }).parsed.kind,
    "rejected",
  );
});

test("Without a namespace it is default", () => {
  const { parsed } = parseObject({ apiVersion: "v1", kind: "Service", metadata: { name: "a" }, spec: {} });
  assert.ok(parsed.kind === "Service");
  assert.equal(parsed.key, "default/a");
});

test("Fault 21: an endpoint without conditions is ready and serving, not terminating", () => {
  const endpoints = [
    { addresses: ["10.1.0.1"] },
    { addresses: ["10.1.0.2"], conditions: { ready: null, serving: null, terminating: null } },
    { addresses: ["10.1.0.3"], conditions: { ready: false } },
    { addresses: ["10.1.0.4"], conditions: { ready: false, serving: true, terminating: true } },
    { addresses: ["10.1.0.5"], conditions: { ready: true, serving: false, terminating: false } },
  ];
  const result = slice({ endpoints });
  assert.deepEqual(result.problems, []);
  assert.deepEqual(
    sliceIn(result).endpoints.map((e) => [e.ready, e.serving, e.terminating]),
    [
      [true, true, false],
      [true, true, false],
      [false, true, false],
      [false, true, true],
      [true, false, false],
    ],
  );
});

test("An endpoint keeps its node and its hints; only its first address counts", () => {
  const result = slice({
    endpoints: [
      {
        addresses: ["10.1.0.1", "10.1.0.2"],
        nodeName: "node-1",
        hints: { forZones: [{ name: "z1" }, { name: "z2" }], forNodes: [{ name: "node-1" }] },
      },
    ],
  });
  const [endpoint] = sliceIn(result).endpoints;
  assert.deepEqual(endpoint, {
    address: "10.1.0.1",
    ready: true,
    serving: true,
    terminating: false,
    nodeName: "node-1",
    hintNodes: ["node-1"],
    hintZones: ["z1", "z2"],
  });
});

test("Fault 7: a slice port without number is no port; no ports, null ports and bad ports leave none", () => {
  assert.deepEqual(sliceIn(slice({ ports: [{ name: "a", port: null }, { name: "b" }] })).ports, []);
  assert.deepEqual(sliceIn(slice({ ports: null })).ports, []);
  assert.deepEqual(sliceIn(slice({ ports: [] })).ports, []);
  const bad = slice({
    ports: [
      { name: "a", port: 0 },
      { name: "a", port: 81 },
      { name: "a", port: 82 },
      { name: "a", port: 83, protocol: "UDP" },
    ],
  });
  assert.deepEqual(sliceIn(bad).ports, [
    { name: "a", protocol: "TCP", port: 81 },
    { name: "a", protocol: "UDP", port: 83 },
  ]);
  assert.equal(bad.problems.length, 2);
});

test("Fault 25: a slice of names is left alone; of an unknown or no address type it is rejected", () => {
  assert.deepEqual(slice({ addressType: "FQDN" }).problems, []);
  assert.equal(slice({ addressType: "FQDN" }).parsed.kind, "rejected");
  assert.deepEqual(said(slice({ addressType: "ipv4" })), ['addressType: "ipv4" is not one of IPv4, IPv6']);
  assert.deepEqual(said(slice({ addressType: undefined })), ["addressType: the slice has no addressType"]);
});

test("Fault 25: an endpoint of the other family is dropped and named", () => {
  const result = slice({ endpoints: [{ addresses: ["fd00::1"] }, { addresses: ["10.1.0.1"] }] });
  assert.equal(sliceIn(result).endpoints.length, 1);
  assert.deepEqual(said(result), [
    `endpoints[0].addresses[0]: "fd00::1" is not an IPv4 address, as the slice's addressType says`,
  ]);
});

test("Endpoints without address, and things that are no endpoints, are dropped and named", () => {
  const result = slice({
    endpoints: [
      {},
      { addresses: [] },
      { addresses: [null] },
      null,
      5,
      "x",
      { addresses: "10.1.0.1" },
      { addresses: ["10.1.0.9"] },
    ],
  });
  assert.deepEqual(
    sliceIn(result).endpoints.map((e) => e.address),
    ["10.1.0.9"],
  );
  assert.ok(result.problems.length >= 7);
});

test("Fault 23: a slice that does not say whose it is, or says it wrongly, is rejected and named", () => {
  assert.deepEqual(said(slice({}, {})), [
    'metadata.labels["kubernetes.io/service-name"]: the slice does not say which Service it belongs to',
  ]);
  assert.match(said(slice({}, { "kubernetes.io/service-name": "" }))[0] ?? "", /is not the name of a Service/);
});

test("Slices of another proxy's Services, and of headless ones, are left alone", () => {
  for (const label of ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"]) {
    const result = slice({}, { "kubernetes.io/service-name": "web", [label]: "" });
    assert.deepEqual([result.parsed.kind, result.problems.length], ["rejected", 0]);
  }
});

test("The trigger time is read from its annotation; a bad one is a problem and no time", () => {
  const of = (time: string): ParseResult =>
    slice({
      metadata: {
        name: "a",
        labels: { "kubernetes.io/service-name": "web" },
        annotations: { "endpoints.kubernetes.io/last-change-trigger-time": time },
      },
    });
  assert.equal(sliceIn(of("2026-01-01T00:00:00.5Z")).triggered_ms, Date.UTC(2026, 0, 1, 0, 0, 0, 500));
  assert.equal(sliceIn(of("yesterday")).triggered_ms, null);
  assert.equal(of("yesterday").problems.length, 1);
});

test("Legacy Endpoints become one slice for each subset and family", () => {
  const result = parseObject({
    apiVersion: "v1",
    kind: "Endpoints",
    metadata: { name: "web", namespace: "shop" },
    subsets: [
      {
        addresses: [{ ip: "10.1.0.1", nodeName: "node-1" }, { ip: "fd00::1" }, { ip: "127.0.0.1" }, {}],
        notReadyAddresses: [{ ip: "10.1.0.2" }],
        ports: [
          { name: "http", port: 8080 },
          { name: "dns", port: 53, protocol: "UDP" },
        ],
      },
      { addresses: [{ ip: "10.1.0.3" }], ports: [{ name: "http", port: 9090 }] },
      { ports: [{ port: 1 }] },
    ],
  });
  assert.ok(result.parsed.kind === "Endpoints");
  assert.equal(result.parsed.key, "shop/web");
  assert.deepEqual(
    result.parsed.value.map((s) => [
      s.name,
      s.serviceName,
      s.family,
      s.ports.length,
      s.endpoints.map((e) => `${e.address} ${e.ready} ${e.serving}`),
    ]),
    [
      ["web-endpoints-0-ipv4", "web", "IPv4", 2, ["10.1.0.1 true true", "10.1.0.2 false false"]],
      ["web-endpoints-0-ipv6", "web", "IPv6", 2, ["fd00::1 true true"]],
      ["web-endpoints-1-ipv4", "web", "IPv4", 1, ["10.1.0.3 true true"]],
    ],
  );
  assert.equal(result.parsed.value[0]?.endpoints[0]?.nodeName, "node-1");
  assert.equal(result.problems.length, 2);
});

test("A Node is its addresses, internal ones first, its zone, ranges and taints", () => {
  const { parsed, problems } = parseObject({
    apiVersion: "v1",
    kind: "Node",
    metadata: {
      name: "node-1.example",
      labels: { "topology.kubernetes.io/zone": "z1" },
      deletionTimestamp: "2026-01-01T00:00:00Z",
    },
    spec: {
      podCIDR: "10.1.0.0/24",
      podCIDRs: ["10.1.0.0/24", "fd00:1::/64", "x"],
      taints: [{ key: "ToBeDeletedByClusterAutoscaler", effect: "NoSchedule" }],
    },
    status: {
      addresses: [
        { type: "Hostname", address: "node-1" },
        { type: "ExternalIP", address: "203.0.113.1" },
        { type: "InternalIP", address: "192.168.0.1" },
        { type: "InternalIP", address: "fd00::1" },
      ],
    },
  });
  assert.ok(parsed.kind === "Node");
  assert.deepEqual(parsed.value, {
    name: "node-1.example",
    addresses: ["192.168.0.1", "fd00::1", "203.0.113.1"],
    zone: "z1",
    podCIDRs: ["10.1.0.0/24", "fd00:1::/64"],
    deleting: true,
    taints: ["ToBeDeletedByClusterAutoscaler"],
  });
  assert.deepEqual(
    problems.map((p) => p.object),
    ["Node node-1.example"],
  );
});

test("Other kinds, and kinds of the same name in other groups, are ignored in silence", () => {
  for (const [apiVersion, kind] of [
    ["apps/v1", "Deployment"],
    ["v1", "Pod"],
    ["serving.knative.dev/v1", "Service"],
    ["example.com/v1", "EndpointSlice"],
    ["v1", "__proto__"],
  ])
    assert.deepEqual(parseObject({ apiVersion, kind, metadata: {} }), { parsed: { kind: "ignored" }, problems: [] });
});

test("What is no object at all is rejected with a problem", () => {
  for (const raw of [null, undefined, 5, "text", [], [{}], true, {}, { kind: 5 }]) {
    const result = parseObject(raw);
    assert.equal(result.parsed.kind, "rejected");
    assert.equal(result.problems.length, 1);
  }
});

test("Fault 28: a value is shown cut short and on one line", () => {
  const result = service({ type: `x\n${"y".repeat(1_000_000)}` });
  assert.ok((result.problems[0]?.message.length ?? 0) < 200);
  assert.ok(!result.problems[0]?.message.includes("\n"));
});

test("No JSON makes the parser throw, and every problem is short and safe for a terminal", () => {
  const words = [
    "metadata",
    "name",
    "namespace",
    "labels",
    "spec",
    "status",
    "ports",
    "port",
    "clusterIP",
    "clusterIPs",
    "endpoints",
    "addresses",
    "subsets",
    "ip",
    "addressType",
    "kind",
    "loadBalancer",
    "ingress",
    "__proto__",
    "constructor",
    "toString",
  ];
  const leaf = fc.oneof(
    fc.constantFrom<unknown>(
      null,
      0,
      -1,
      80,
      70000,
      80.5,
      "80",
      "",
      "None",
      "10.0.0.1",
      "fd00::1",
      "127.0.0.1",
      "IPv4",
      "a",
      "\u001b[2J",
      true,
    ),
    fc.jsonValue(),
  );
  const tree = fc.letrec<{ node: unknown }>((tie) => ({
    node: fc.oneof(
      { depthSize: "small", withCrossShrink: true },
      leaf,
      fc.array(tie("node"), { maxLength: 4 }),
      fc.dictionary(fc.constantFrom(...words), tie("node"), { maxKeys: 6, noNullPrototype: true }),
    ),
  })).node;
  const object = fc.record({
    metadata: tree,
    spec: tree,
    status: tree,
    addressType: tree,
    ports: tree,
    endpoints: tree,
    subsets: tree,
  });
  const named = fc.tuple(object, fc.boolean()).map(([o, usable]) => (usable ? { ...o, metadata: { name: "a" } } : o));
  fc.assert(
    fc.property(
      fc.constantFrom<Kind>("Service", "EndpointSlice", "Endpoints", "Node"),
      fc.oneof(named, tree),
      (kind, raw) => {
        for (const { problems } of [parseKind(kind, raw), parseObject(raw)])
          for (const { object, path, message } of problems) {
            assert.ok(message.length < 250, message);
            assert.doesNotMatch(`${object}${path}${message}`, /[\u0000-\u001f\u007f-\u009f]/);
          }
      },
    ),
    { numRuns: 500 },
  );
});

test("What is read is usable: numbers in range, addresses canonical and of one family", () => {
  const anything = fc.oneof(fc.integer({ min: -5, max: 70000 }), fc.double(), fc.string(), fc.constant(null));
  const address = fc.oneof(
    fc.ipV4(),
    fc.ipV6(),
    fc.string({ maxLength: 12 }),
    fc.constantFrom("127.0.0.1", "::1", "010.1.0.1"),
  );
  fc.assert(
    fc.property(fc.array(anything), fc.array(address), (numbers, addresses) => {
      const value = serviceIn(
        service({
          clusterIPs: addresses,
          externalIPs: addresses,
          ports: numbers.map((port, i) => ({ name: `p${i}`, port, nodePort: port })),
        }),
      );
      for (const port of value.ports) {
        assert.ok(Number.isInteger(port.port) && port.port >= 1 && port.port <= 65535);
        assert.ok(port.nodePort === null || port.nodePort === port.port);
      }
      assert.ok(value.clusterIPs.length <= 2);
      const { endpoints } = sliceIn(slice({ endpoints: addresses.map((a) => ({ addresses: [a] })) }));
      for (const endpoint of endpoints) assert.match(endpoint.address, /^\d+\.\d+\.\d+\.\d+$/);
    }),
  );
});
