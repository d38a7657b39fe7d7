// A lab's nodes have a veth where a machine has a NIC. For XDP on it the other end, on the wire, has to be more of one: it takes
// frames that come without an skb only with an XDP program of its own, and must send none whose checksum is still to be completed.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Lab } from "./lab.ts";

const PASSES = `int pass(void *ctx) __attribute__((section("xdp")));
int pass(void *ctx) { return 2; }
char LICENSE[] __attribute__((section("license"))) = "GPL";
`;

/** An object with an XDP program, in section xdp, that lets everything pass, for \`ip link set … xdpdrv obj\`. */
export const compilePassing = (folder: string): string => {
  const path = join(folder, "passes.o");
  writeFileSync(`${path}.c`, PASSES);
  execFileSync("clang", ["-target", "bpf", "-O2", "-g", "-c", `${path}.c`, "-o", path]);
  return path;
};

/** Of one node's device; `isFit` false: as it was. */
export const fitWireForXdp = (lab: Lab, node: string, isFit: boolean): void => {
  const program = isFit ? ["obj", compilePassing(lab.directory), "sec", "xdp"] : ["off"];
  for (const argv of [
    ["ethtool", "-K", node, "tx", isFit ? "off" : "on"],
    ["ip", "link", "set", "dev", node, "xdpdrv", ...program],
  ]) {
    const { status, stderr } = lab.run("wire", argv);
    assert.equal(status, 0, `${argv.join(" ")}: ${stderr}`);
  }
};
