// Every object loads with every combination of its options that makes a difference, and costs the verifier no more than
// instructions.txt says.
// UPDATE=1 rewrites this kernel's column of that table. On a kernel without a column, loading alone is checked.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { release } from "node:os";
import { test } from "node:test";
import { layouts, type Options, socket_lb } from "../../src/dataplane/bpf/abi.gen.ts";
import { hasConntrack, hasKernelContext } from "../../src/dataplane/bpf/probe.ts";
import { loadObject } from "../../src/dataplane/bpf/system/object.ts";
import { programInfo } from "../../src/dataplane/bpf/system/program.ts";
import { loadOptions, objectPath } from "../lib/datapath.ts";

const TABLE = `${import.meta.dirname}/instructions.txt`;
/** A program may grow by this much before somebody has to look at it. */
const MARGIN = 1.1;
const OBJECTS = ["sock", "stale", "tc", "xdp", "expiry"] as const;
/** Of a device, and no alternative: any will do. */
type Chosen = Omit<Options, "device" | "device_mac">;
const NAMES = layouts.options.fields.flatMap(({ name }) => (name === "device" || name === "device_mac" ? [] : [name]));
/** What an option may be. An object that does not ask for it is loaded with the first alone. */
const VALUES: Readonly<Record<keyof Chosen, Partial<Record<(typeof OBJECTS)[number], readonly number[]>>>> = {
  ipv4: { sock: [0, 1], tc: [0, 1], xdp: [0, 1] },
  ipv6: { sock: [0, 1], tc: [0, 1], xdp: [0, 1] },
  backend_stats: { sock: [0, 1], tc: [0, 1] },
  socket_lb: {
    sock: [socket_lb.SOCKET_LB_ALL, socket_lb.SOCKET_LB_HOST],
    tc: [socket_lb.SOCKET_LB_ALL, socket_lb.SOCKET_LB_OFF],
  },
  l3_device: { tc: [0, 1] },
  conntrack: {}, // below
  direct: { tc: [0, 1] },
  kernel_context: {}, // below
};
const smallMaps = { slots: 64, backends: 64, backend_stats: 64, flows: 64, frontends: 64, affinity: 64, nodeports: 64 };

/**
 * Every options record that makes a difference to an object: the families and the statistics in every combination; whose
 * sockets are translated, how packets start and how they go on in every combination on top of all of these, with which
 * it is most code.
 * On an emulated machine a load takes seconds.
 */
const combinationsFor = (object: (typeof OBJECTS)[number]): readonly Chosen[] => {
  const all = NAMES.reduce<readonly Partial<Chosen>[]>(
    (partial, name) =>
      partial.flatMap((one) => (VALUES[name][object] ?? [0]).map((value) => ({ ...one, [name]: value }))),
    [{}],
  ) as readonly Chosen[];
  return all.filter(
    ({ ipv4, ipv6, backend_stats, socket_lb, l3_device, direct }) =>
      (ipv4 && ipv6 && backend_stats) || !(socket_lb || l3_device || direct),
  );
};

const nameOf = (options: Chosen): string => {
  const lb = { [socket_lb.SOCKET_LB_HOST]: "host", [socket_lb.SOCKET_LB_OFF]: "off" }[options.socket_lb];
  const words = NAMES.filter((name) => name !== "socket_lb" && options[name] === 1);
  return [...words, ...(lb === undefined ? [] : [lb])].join("+") || "nothing";
};

const instructionsOf = (object: (typeof OBJECTS)[number], options: Chosen): ReadonlyMap<string, number> => {
  const loaded = loadObject(objectPath(object), { options: loadOptions(options), maxEntries: smallMaps });
  try {
    return new Map(
      loaded.programs.map((name) => [
        `${name} ${nameOf(options)}`,
        programInfo(loaded.program(name)).verified_instructions,
      ]),
    );
  } finally {
    loaded.close();
  }
};

/** `6.1`: the verifier of a series stays the same. */
const KERNEL = release().split(".").slice(0, 2).join(".");

/** Counts by kernel and by program and options. */
type Table = ReadonlyMap<string, ReadonlyMap<string, number>>;

const byVersion = (a: string, b: string): number => a.localeCompare(b, "en", { numeric: true });

const format = (table: Table): string => {
  const kernels = [...table.keys()].sort(byVersion);
  const programs = [...(table.get(KERNEL) ?? [])].map(([what]) => what);
  const rows = programs.map((what) => [
    ...what.split(" "),
    ...kernels.map((kernel) => table.get(kernel)?.get(what) ?? "-"),
  ]);
  return [
    "# Instructions the verifier walks through, by kernel. UPDATE=1 rewrites the column of the kernel it runs on.",
    ...[["program", "options", ...kernels], ...rows].map(([program, options, ...counts]) =>
      [`${program}`.padEnd(18), `${options}`.padEnd(38), ...counts.map((count) => `${count}`.padStart(7))].join(""),
    ),
    "",
  ].join("\n");
};

const parse = (text: string): Table => {
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  const [[, , ...kernels] = [], ...rows] = lines.map((line) => line.split(/ +/));
  const column = (i: number): ReadonlyMap<string, number> =>
    new Map(
      rows
        .filter(([, , ...counts]) => counts[i] !== "-")
        .map(([program, options, ...counts]) => [`${program} ${options}`, Number(counts[i])]),
    );
  return new Map(kernels.map((kernel, i) => [kernel, column(i)]));
};

test("every combination of options that makes a difference to an object passes the verifier, at its known cost", (t) => {
  const counts = new Map<string, number>();
  for (const object of OBJECTS) {
    for (const options of combinationsFor(object)) {
      for (const [what, n] of instructionsOf(object, options)) counts.set(what, n);
    }
  }
  const expected = { sock: 9, stale: 1, tc: 4, xdp: 1, expiry: 1 };
  assert.equal(
    counts.size,
    OBJECTS.reduce((sum, object) => sum + expected[object] * combinationsFor(object).length, 0),
    "nine socket programs, an iterator, four of tc, one of XDP, one that expires flows",
  );
  if (process.env.UPDATE === "1") {
    writeFileSync(TABLE, format(new Map([...parse(readFileSync(TABLE, "utf8")), [KERNEL, counts]])));
  }
  const known = parse(readFileSync(TABLE, "utf8")).get(KERNEL);
  if (known === undefined) {
    t.diagnostic(`instructions.txt has no kernel ${KERNEL}: only loading was checked`);
    return;
  }
  assert.deepEqual([...counts.keys()].sort(), [...known.keys()].sort(), "the same programs as in the table");
  for (const [what, n] of counts) {
    const limit = (known.get(what) ?? 0) * MARGIN;
    assert.ok(n <= limit, `${what}: ${n} instructions, over ${Math.floor(limit)}: look why, then run with UPDATE=1`);
  }
});

const noConntrack = hasConntrack() ? false : "this kernel cannot be asked for tracked connections";

for (const l3_device of [0, 1]) {
  test(`where the kernel can be asked for tracked connections, tc asks, l3_device ${l3_device}`, {
    skip: noConntrack,
  }, () => {
    for (const direct of [0, 1]) {
      const options = loadOptions({ conntrack: 1, l3_device, direct });
      loadObject(objectPath("tc"), { options, maxEntries: smallMaps }).close();
    }
  });
}

const noKernelContext = hasKernelContext() ? false : "this kernel does not show its own structs";

for (const l3_device of [0, 1]) {
  test(`where the kernel shows what it makes of a checksum, tc writes it itself, l3_device ${l3_device}`, {
    skip: noKernelContext,
  }, () => {
    const options = loadOptions({ kernel_context: 1, l3_device });
    loadObject(objectPath("tc"), { options, maxEntries: smallMaps }).close();
  });
}

test("where the kernel shows its own struct of a socket that closes, sock asks it for the cookie", {
  skip: noKernelContext,
}, () => {
  for (const backend_stats of [0, 1]) {
    const options = loadOptions({ kernel_context: 1, backend_stats });
    loadObject(objectPath("sock"), { options, maxEntries: smallMaps }).close();
  }
});

for (const family of ["ipv4", "ipv6"] as const) {
  test(`where some pods are translated at their devices, sock asks whose socket it is, ${family} alone and with the other`, () => {
    const only = { ipv4: 0, ipv6: 0, [family]: 1 };
    for (const families of [only, { ipv4: 1, ipv6: 1 }]) {
      const options = loadOptions({ ...families, socket_lb: socket_lb.SOCKET_LB_OTHERS });
      loadObject(objectPath("sock"), { options, maxEntries: smallMaps }).close();
    }
  });
}
