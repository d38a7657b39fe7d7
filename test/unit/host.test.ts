// Which devices are served, from the texts of /proc/self/net; who holds a lock, from the text of /proc/locks.
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  chooseDevices,
  choosePodDevices,
  type HostView,
  parseDevices,
  parseRoutes4,
  parseRoutes6,
  readHost,
} from "../../src/agent/host.ts";
import { findLock } from "../../src/commands/status.ts";
import { readAddress as address } from "../lib/addresses.ts";

const DEV = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:   10020     120    0    0    0     0          0         0    10020     120    0    0    0     0       0          0
  eth0: 1020     120    0    0    0     0          0         0    10020     120    0    0    0     0       0          0
flannel.1:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
veth1a2b3c4d: 5 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
`;

const ROUTE4 = `Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
eth1	00000000	00000000	0001	0	0	0	000000FF	0	0	0
cni0	0001F40A	00000000	0001	0	0	0	00FFFFFF	0	0	0
`;

const ROUTE6 = `fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth2
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
`;

test("devices are listed without lo", () => {
  assert.deepEqual(parseDevices(DEV), ["eth0", "flannel.1", "veth1a2b3c4d"]);
});

test("a default route is 0.0.0.0/0 or ::/0, and never the kernel's own of lo", () => {
  assert.deepEqual(parseRoutes4(ROUTE4), ["eth0"]);
  assert.deepEqual(parseRoutes6(ROUTE6), ["eth2"]);
  assert.deepEqual([parseRoutes4(""), parseRoutes6("")], [[], []]);
});

const HOST: HostView = {
  devices: [
    { name: "eth0", index: 2, kind: "veth", peerNetns: null },
    { name: "eth1", index: 3, kind: "other", peerNetns: null },
    { name: "flannel.1", index: 4, kind: "tunnel", peerNetns: null },
    { name: "tunl0", index: 5, kind: "tunnel", peerNetns: null },
    { name: "veth1", index: 6, kind: "veth", peerNetns: null },
  ],
  defaultRoutes: ["eth0"],
  addresses: [
    { device: "eth1", address: address("192.0.2.11") },
    { device: "flannel.1", address: address("10.244.1.0") },
    { device: "lo", address: address("127.0.0.1") },
  ],
};

test("without patterns: devices of default routes and of the Node's addresses, and tunnels with an address", () => {
  assert.deepEqual(chooseDevices(HOST, [], []), ["eth0", "flannel.1"]);
  assert.deepEqual(chooseDevices(HOST, [], [address("192.0.2.11")]), ["eth0", "eth1", "flannel.1"]);
  assert.deepEqual(chooseDevices(HOST, [], [address("127.0.0.1")]), ["eth0", "flannel.1"], "never lo");
});

test("pods' devices: where their sockets are not translated every veth, else what a pattern names; never a node device", () => {
  const chosen = (socketLB: "all" | "host" | "off", podDevices: readonly string[] | null): readonly string[] =>
    choosePodDevices(HOST, { socketLB, podDevices }, ["eth0"]);
  assert.deepEqual([chosen("all", null), chosen("host", null), chosen("off", null)], [[], ["veth1"], ["veth1"]]);
  assert.deepEqual(chosen("all", ["*"]), ["eth1", "flannel.1", "tunl0", "veth1"]);
  assert.deepEqual(chosen("host", []), []);
});

test("with patterns: those that match as a whole, and nothing else", () => {
  const cases: readonly (readonly [string[], string[]])[] = [
    [["eth*"], ["eth0", "eth1"]],
    [
      ["eth?", "flannel.1"],
      ["eth0", "eth1", "flannel.1"],
    ],
    [["flannelx1"], []],
    [["eth"], []],
    [["*"], ["eth0", "eth1", "flannel.1", "tunl0", "veth1"]],
    [["lo"], []],
  ];
  for (const [patterns, expected] of cases) {
    assert.deepEqual(chooseDevices(HOST, patterns, [address("192.0.2.11")]), expected, patterns.join());
  }
});

test("this machine has a loopback address, and no link-local one is told", () => {
  const { addresses } = readHost();
  assert.ok(addresses.some((a) => a.address === "127.0.0.1" || a.address === "::1"));
  assert.equal(
    addresses.some((a) => a.address.startsWith("fe80")),
    false,
  );
});

test("the holder of a lock is found by device and inode, and who only waits is not it", () => {
  const locks = `1: POSIX  ADVISORY  WRITE 100 00:2f:7 0 EOF
2: FLOCK  ADVISORY  WRITE 200 00:30:7 0 EOF
2: -> FLOCK  ADVISORY  WRITE 300 00:2f:7 0 EOF
3: FLOCK  ADVISORY  WRITE 400 00:2f:7 0 EOF
`;
  assert.equal(findLock(locks, "00:2f:7"), 400);
  assert.equal(findLock(locks, "00:30:7"), 200);
  assert.equal(findLock(locks, "00:2f:77"), null);
});
