// The agent ends between any two writes: what is left answers from the old or the new, and the next agent gets to the end.
import assert from "node:assert/strict";
import { test } from "node:test";
import { formatDesired } from "../../src/compile/format.ts";
import { MapError, type MapName, type MapStore } from "../../src/dataplane/bpf/mapstore.ts";
import { checkConsistency } from "../lib/consistency.ts";
import { kill, Node, noDataplane, results } from "../lib/dataplane-node.ts";
import { type DesiredText, toText } from "../lib/dataplane-steps.ts";
import { clusterIP, desiredOf, loadBalancer, nodePort, serviceOf } from "../lib/services.ts";

const entrances = [clusterIP("10.96.0.1"), loadBalancer("198.51.100.1"), nodePort(30080)];
const before = desiredOf(
  serviceOf("web", ["10.244.0.1", "10.244.0.2"], entrances, { sourceRanges: ["10.0.0.0/8"] }),
  serviceOf("gone", ["10.244.0.8"], [clusterIP("10.96.0.8"), clusterIP("10.96.0.9")]),
);
const after = desiredOf(
  serviceOf("web", ["10.244.0.2", "10.244.0.3"], entrances, {
    sourceRanges: ["192.168.0.0/16"],
    external: "Local",
    local: ["10.244.0.3"],
  }),
  serviceOf("new", ["10.244.0.7"], [clusterIP("10.96.0.8")]),
);

/** Writes entry by entry, and dies once, before entry `at`. Says whether it came to that. */
const dieAt = (at: number) => {
  const death = { happened: false };
  let written = 0;
  const live = <T>(map: MapName, all: readonly T[], write: (one: T) => void): void => {
    for (const one of all) {
      if (written++ === at) {
        death.happened = true;
        throw new MapError("dead", map, 5, 0);
      }
      write(one);
    }
  };
  const through = (store: MapStore): MapStore => ({
    capacity: (map) => store.capacity(map),
    entries: (map, below) => store.entries(map, below),
    lookup: (map, key) => store.lookup(map, key),
    update: (map, entries) => live(map, entries, (one) => store.update(map, [one])),
    delete: (map, keys) => live(map, keys, (one) => store.delete(map, [one])),
    waitForPrograms: () => store.waitForPrograms(),
  });
  return { death, through };
};

test("Dead before any one write, and started again: every frontend answers all the while, and the end is the same", () => {
  let at = 0;
  for (; ; at++) {
    const { death, through } = dieAt(at);
    checkConsistency([before, after, before], { through, restarts: true, name: `dead before entry ${at}` });
    if (!death.happened) break;
  }
  assert.ok(at > 60, `${at} places to die at`);
});

test("Killed with SIGKILL while it applies, again and again: the pinned maps answer from one side or the other", {
  skip: noDataplane,
}, async (t) => {
  const node = await Node.create(t);
  const sides = [before, after].map(toText);
  for (let i = 0; i < 8; i++) {
    const running = await node.start([{ open: true }, { apply: toText(before) }, { churn: sides }], "churning");
    await new Promise((resolve) => setTimeout(resolve, 37 * i));
    await kill(running);
    const [held] = results(node.run([{ print: "pinned" }])) as [DesiredText];
    for (const [address, allowed] of answersOf(sides)) {
      assert.ok(allowed.has(answerAt(held, address)), `${address} answers ${answerAt(held, address)} after kill ${i}`);
    }
  }
  const steps = [{ open: true }, { apply: toText(after) }, { print: "readBack" }, { print: "hooks" }] as const;
  const [, , held, hooks] = results(node.run(steps)) as [unknown, unknown, DesiredText, Record<string, number>];
  assert.equal(formatted(held), formatDesired(after));
  assert.ok(Object.values(hooks).every((count) => count === 1));
});

/** What each address answers on either side. */
const answersOf = (sides: readonly DesiredText[]): Map<string, Set<string>> => {
  const addresses = sides.flatMap(({ services }) => services.flatMap(({ frontends }) => frontends.map(nameOf)));
  return new Map(addresses.map((address) => [address, new Set(sides.map((side) => answerAt(side, address)))]));
};

type Frontend = DesiredText["services"][number]["frontends"][number];

const nameOf = ({ address, port }: Frontend): string => `${address ?? "node"}:${port}`;

const answerAt = ({ services }: DesiredText, address: string): string => {
  for (const { name, frontends } of services) {
    const found = frontends.find((frontend) => nameOf(frontend) === address);
    if (found !== undefined)
      return `${name.name} internal ${choiceText(found.internal)}, external ${choiceText(found.external)}`;
  }
  return "nothing";
};

const choiceText = (choice: Frontend["internal"]): string =>
  choice.kind === "backends" ? choice.backends.map((backend) => backend.address).join() : choice.kind;

const formatted = (text: DesiredText): string =>
  formatDesired({ ...text, services: desiredOf(...text.services).services });
