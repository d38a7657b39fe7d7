// Which devices are served, as far as it needs no kernel: when they are looked at, and when not.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createServed, type ServedParts } from "../../src/dataplane/bpf/served.ts";

/** What is asked of the hooks, in order. */
const createCounted = (attach: () => void = () => {}) => {
  const calls: string[] = [];
  const parts: ServedParts = {
    options: { bpffs: "", cgroup: null, devices: ["eth0"], podDevices: [], attach: "auto", log: () => {} },
    hooks: {
      attach() {
        calls.push("attach");
        attach();
      },
      setDevices: (devices) => calls.push(`set ${devices.join()}`),
      attachments: () => [],
      programIds: () => new Set(),
    },
    xdp: { require: () => {}, set: () => {}, native: () => [], devices: () => [], close: () => {} },
    forwarding: {
      set: () => {},
      forgetNextHops: () => {},
      setRouteMtu: () => {},
      setSharing: () => {},
      setDevices: () => {},
      restrictDevices: () => {},
      facts: () => ({ mode: "kernel", generation: 0, bumps: 0 }),
      close: () => {},
    },
    canForward: false,
    hasForwarded: false,
    tellConntrack: () => {},
    prepare: () => {},
  };
  return { served: createServed(parts), calls };
};

test("programs are attached once: later applies, with every change of services, look at no device", () => {
  const { served, calls } = createCounted();
  served.attach();
  const first = calls.splice(0);
  assert.deepEqual(first, ["set eth0", "attach", "set eth0"]);
  served.attach();
  assert.deepEqual(calls, []);
  served.set(["eth1"], []);
  assert.deepEqual(calls, ["set eth1"], "devices that change are");
});

test("an attach that failed is tried again with the next apply", () => {
  let isFree = false;
  const { served, calls } = createCounted(() => {
    if (!isFree) throw new Error("taken");
  });
  assert.throws(() => served.attach(), /taken/);
  isFree = true;
  calls.splice(0);
  served.attach();
  assert.ok(calls.includes("attach"));
});
