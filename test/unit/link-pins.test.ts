// What is attached is told from the names of pins alone, whatever a device is called.
import assert from "node:assert/strict";
import { test } from "node:test";
import { headerOf } from "../../src/dataplane/bpf/device.ts";
import { type LinkPin, linkPinName, parseLinkPin } from "../../src/dataplane/bpf/pins.ts";

test("a pin's name holds all of it: the hook, the device, what the device is served for", () => {
  const pins: readonly (readonly [LinkPin, string])[] = [
    [{ kind: "cgroup", hook: "connect4" }, "connect4@cgroup"],
    [{ kind: "tcx", direction: "ingress", device: "eth0", role: "node" }, "tcx_ingress@eth0"],
    [{ kind: "tcx", direction: "egress", device: "veth1", role: "pod" }, "tcx_egress@veth1@pod"],
    [{ kind: "tcx", direction: "egress", device: "eth0.100", role: "node" }, "tcx_egress@eth0%2E100"],
    [{ kind: "tcx", direction: "ingress", device: "a@pod", role: "node" }, "tcx_ingress@a%40pod"],
    [{ kind: "tcx", direction: "ingress", device: "pod", role: "pod" }, "tcx_ingress@pod@pod"],
    [
      { kind: "clsact", direction: "ingress", device: "eth0", role: "node", priority: 3040, program_id: 7 },
      "clsact_ingress@eth0@3040@7",
    ],
    [
      { kind: "clsact", direction: "egress", device: "cgroup", role: "pod", priority: 3040, program_id: 7 },
      "clsact_egress@cgroup@3040@7@pod",
    ],
    [{ kind: "xdp", device: "eth0.100", role: "node" }, "xdp@eth0%2E100"],
    [{ kind: "xdp", device: "cgroup", role: "node" }, "xdp@cgroup"],
  ];
  for (const [pin, name] of pins) {
    assert.equal(linkPinName(pin), name);
    assert.deepEqual(parseLinkPin(name), pin);
  }
});

test("a device named pod is the node's where nothing says otherwise", () => {
  const pin: LinkPin = { kind: "tcx", direction: "ingress", device: "pod", role: "node" };
  assert.deepEqual(parseLinkPin(linkPinName(pin)), pin);
});

test("link types: Ethernet, IP without a header before it, and what cannot be served", () => {
  const [ETHER, TUNNEL, SIT, NONE, INFINIBAND] = [1, 768, 776, 0xfffe, 32];
  assert.deepEqual([ETHER, TUNNEL, SIT, NONE].map(headerOf), ["ethernet", "ip", "ip", "ip"]);
  assert.throws(() => headerOf(INFINIBAND), /neither with Ethernet nor with IP \(link type 32\)/);
});
