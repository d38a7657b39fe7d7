import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { readManifests, readManifestText, watchManifests } from "../../src/k8s/manifests.ts";
import type { Source } from "../../src/k8s/source.ts";
import { isInputError } from "../../src/lib/errors.ts";
import type { Snapshot } from "../../src/model/snapshot.ts";
import { eventually } from "../lib/eventually.ts";

const service = (name: string, ip = "10.0.0.1"): string =>
  `apiVersion: v1\nkind: Service\nmetadata: {name: ${name}}\nspec: {clusterIP: ${ip}, ports: [{port: 80}]}\n`;

const names = (snapshot: Snapshot): readonly string[] => [...snapshot.services.values()].map((s) => s.name).sort();
const ipOf = (snapshot: Snapshot, name: string): string | undefined =>
  [...snapshot.services.values()].find((s) => s.name === name)?.clusterIPs[0];

const inDirectory = async (body: (directory: string) => void | Promise<void>): Promise<void> => {
  const directory = mkdtempSync(join(tmpdir(), "beeline-manifests-"));
  try {
    await body(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
};

const write = (directory: string, files: Readonly<Record<string, string>>): void => {
  for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text);
};

test("Documents, Lists, typed lists and JSON are taken apart; other kinds are passed over", () => {
  const items = ["d", "e"].map((name) => ({ metadata: { name }, spec: { clusterIP: "10.0.0.1", ports: [] } }));
  const { snapshot, problems } = readManifestText(
    [
      service("a"),
      `apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {}}\n- {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Service, metadata: {name: c}, spec: {}}]}`,
      JSON.stringify({ apiVersion: "v1", kind: "ServiceList", items }, null, 2),
      "# a comment alone",
      "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}",
      "",
    ].join("\n---\n"),
    "f",
    "n",
  );
  assert.deepEqual(problems, []);
  assert.deepEqual(names(snapshot), ["a", "b", "c", "d", "e"]);
});

test("A JSON file is read as kubectl get -o json writes it", () => {
  const list = {
    apiVersion: "v1",
    kind: "List",
    items: [{ apiVersion: "v1", kind: "Service", metadata: { name: "a" }, spec: {} }],
  };
  assert.deepEqual(names(readManifestText(JSON.stringify(list), "f.json", "n").snapshot), ["a"]);
});

test("A problem names file, line, path and value, also inside of a List", () => {
  const text = `# first\n${service("a")}---\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {}}\n- apiVersion: v1\n  kind: Service\n  metadata: {name: c}\n  spec: {ports: [{port: 70000}]}\n`;
  assert.deepEqual(readManifestText(text, "shop.yaml", "n").problems, [
    {
      object: "Service default/c (shop.yaml:10)",
      path: "spec.ports[0].port",
      message: "70000 is not a port (1..65535)",
    },
  ]);
});

const BAD: readonly (readonly [string, string, number])[] = [
  ["an unclosed quote", 'kind: "Service\nmetadata:', 7],
  ["an unclosed bracket", "kind: [Service\n", 7],
  ["a tab", "kind:\n\t- b\n", 7],
  ["a key twice", "kind: A\nkind: B\n", 7],
  ["an alias of nothing", "kind: *nothing\n", 6],
];
for (const [what, text, line] of BAD) {
  test(`A document with ${what} is named with its line, those around it are used`, () => {
    const { snapshot, problems } = readManifestText(`${service("a")}---\n${text}\n---\n${service("b")}`, "f", "n");
    assert.deepEqual(names(snapshot), ["a", "b"]);
    assert.equal(problems.length, 1);
    const [, at] = /^f:(\d+)$/.exec(problems[0]?.object ?? "") ?? [];
    assert.ok(Math.abs(Number(at) - line) <= 2, `${problems[0]?.object}: ${problems[0]?.message}`);
  });
}

test("An alias bomb and endless nesting are problems, not the end", () => {
  const rows = [..."bcdefghij"].map((c, i) => `${c}: &${c} [${Array(10).fill(`*${"abcdefghij"[i]}`).join()}]`);
  const bomb = `a: &a [1,1,1,1,1,1,1,1,1,1]\n${rows.join("\n")}`;
  const text = [service("a"), bomb, `a: ${"[".repeat(20_000)}`, "a: &a {b: *a}", service("b")].join("\n---\n");
  const { snapshot, problems } = readManifestText(text, "f", "n");
  assert.deepEqual(names(snapshot), ["a", "b"]);
  assert.equal(problems.length, 3);
  assert.match(problems.map((p) => p.message).join("\n"), /Excessive alias count/);
});

test("__proto__ in YAML is a field like any other", () => {
  const { snapshot, problems } = readManifestText(
    `__proto__: {spec: {clusterIP: 10.6.6.6}}\n${service("a")}`,
    "f",
    "n",
  );
  assert.deepEqual([problems.length, ipOf(snapshot, "a")], [0, "10.0.0.1"]);
  assert.equal(({} as { spec?: unknown }).spec, undefined);
});

test("Two claims to one name: the first by path stands, the other is named with both places", () =>
  inDirectory((directory) => {
    write(directory, { "b.yaml": service("web", "10.0.0.2"), "a.yaml": service("web", "10.0.0.1") });
    const { snapshot, problems } = readManifests([directory], "n");
    assert.equal(ipOf(snapshot, "web"), "10.0.0.1");
    assert.deepEqual(problems, [
      {
        object: `Service default/web (${directory}/b.yaml:1)`,
        path: "",
        message: `is in ${directory}/a.yaml:1 already`,
      },
    ]);
  }));

test("Folders are read with all below them, without hidden and temporary files", () =>
  inDirectory((directory) => {
    mkdirSync(join(directory, "sub", "deep"), { recursive: true });
    mkdirSync(join(directory, ".git"));
    write(directory, {
      "a.yaml": service("a"),
      "b.yml": service("b"),
      "c.json": JSON.stringify({ apiVersion: "v1", kind: "Service", metadata: { name: "c" }, spec: {} }),
      "sub/deep/d.yaml": service("d"),
      ".hidden.yaml": service("hidden"),
      ".git/e.yaml": service("hidden"),
      "a.yaml~": service("backup"),
      "#a.yaml#": service("autosave"),
      ".#a.yaml": service("lock"),
      ".a.yaml.swp": service("swap"),
      "README.md": "# not: [yaml",
      "a.yaml.tmp": "half",
    });
    symlinkSync("..", join(directory, "sub", "circle"));
    const { snapshot, problems } = readManifests([directory], "n");
    assert.deepEqual([names(snapshot), problems], [["a", "b", "c", "d"], []]);
  }));

test("A file named as such is read whatever it is called", () =>
  inDirectory((directory) => {
    write(directory, { services: service("a") });
    assert.deepEqual(names(readManifests([join(directory, "services")], "n").snapshot), ["a"]);
  }));

test("A path that does not exist, and a document that is no YAML, are input errors that name them", () =>
  inDirectory((directory) => {
    write(directory, { "bad.yaml": `${service("a")}---\nkind: "\n` });
    const input = (pattern: RegExp) => (error: Error) => isInputError(error) && pattern.test(error.message);
    assert.throws(() => readManifests(["/nonexistent"], "n"), input(/^Cannot read \/nonexistent: /));
    assert.throws(() => readManifests([directory], "n"), input(/^Cannot read .*bad\.yaml:\d+: .*quote/));
    const handlers = { changed: () => undefined, log: () => undefined };
    assert.throws(() => watchManifests(["/nonexistent"], "n", handlers), input(/^Cannot read \/nonexistent: /));
  }));

test("Our own Node is taken, others are not", () => {
  const node = (name: string): string => `apiVersion: v1\nkind: Node\nmetadata: {name: ${name}}\n`;
  assert.equal(readManifestText(`${node("x")}---\n${node("n")}`, "f", "n").snapshot.node?.name, "n");
});

interface Watched {
  readonly directory: string;
  readonly source: Source;
  readonly changes: () => number;
  readonly log: string[];
}

/** Short times; `poll_ms` large unless the poll is what is tested. */
const watching = (
  files: Readonly<Record<string, string>>,
  body: (watched: Watched) => Promise<void>,
  options: { readonly poll_ms?: number; readonly root?: string } = {},
): Promise<void> =>
  inDirectory(async (directory) => {
    write(directory, files);
    const log: string[] = [];
    let changes = 0;
    const source = watchManifests(
      [join(directory, options.root ?? "")],
      "n",
      { changed: () => void changes++, log: (_level, message) => void log.push(message) },
      { settle_ms: 20, poll_ms: options.poll_ms ?? 60_000 },
    );
    try {
      await body({ directory, source, changes: () => changes, log });
    } finally {
      await source.close();
    }
  });

test("A watched folder is there at once, and says so once", () =>
  watching({ "a.yaml": service("a") }, async ({ source, changes }) => {
    assert.equal(source.synced(), true);
    assert.deepEqual(names(source.snapshot()), ["a"]);
    assert.equal(changes(), 0, "not before the call has returned");
    await eventually(() => assert.equal(changes(), 1));
  }));

test("New, changed, renamed and deleted files are seen, in new folders too", () =>
  watching({ "a.yaml": service("a") }, async ({ directory, source }) => {
    const seen = (expected: readonly string[]): Promise<void> =>
      eventually(() => assert.deepEqual(names(source.snapshot()), expected));
    write(directory, { "b.yaml": service("b") });
    await seen(["a", "b"]);
    write(directory, { "a.yaml": service("a", "10.0.0.7") });
    await eventually(() => assert.equal(ipOf(source.snapshot(), "a"), "10.0.0.7"));
    write(directory, { "new.tmp": service("a", "10.0.0.8") });
    renameSync(join(directory, "new.tmp"), join(directory, "a.yaml"));
    await eventually(() => assert.equal(ipOf(source.snapshot(), "a"), "10.0.0.8"));
    mkdirSync(join(directory, "sub"));
    write(directory, { "sub/c.yaml": service("c") });
    await seen(["a", "b", "c"]);
    write(directory, { "sub/c.yaml": service("d") });
    await seen(["a", "b", "d"]);
    rmSync(join(directory, "sub"), { recursive: true });
    unlinkSync(join(directory, "b.yaml"));
    await seen(["a"]);
  }));

test("What did not change keeps its identity when a neighbour does", () =>
  watching({ "a.yaml": service("a"), "b.yaml": service("b") }, async ({ directory, source }) => {
    const kept = [...source.snapshot().services.values()].find((s) => s.name === "a");
    write(directory, { "a.yaml": `# touched\n${service("a")}`, "b.yaml": service("b", "10.0.0.2") });
    await eventually(() => assert.equal(ipOf(source.snapshot(), "b"), "10.0.0.2"));
    assert.equal(
      [...source.snapshot().services.values()].find((s) => s.name === "a"),
      kept,
    );
  }));

test("A half-written file keeps its objects until it is whole, and is named meanwhile", () =>
  watching({ "a.yaml": service("a"), "b.yaml": service("b") }, async ({ directory, source, log, changes }) => {
    await eventually(() => assert.equal(changes(), 1));
    write(directory, { "a.yaml": 'apiVersion: v1\nkind: Service\nmetadata: {name: "a' });
    await eventually(() => assert.equal(source.problems().length, 1));
    assert.match(source.problems()[0]?.object ?? "", /a\.yaml:\d+$/);
    await eventually(() => assert.match(log.join("\n"), /a\.yaml:\d+: /));
    assert.deepEqual(names(source.snapshot()), ["a", "b"]);
    assert.equal(changes(), 1);
    write(directory, { "a.yaml": service("a", "10.0.0.3") });
    await eventually(() => assert.equal(ipOf(source.snapshot(), "a"), "10.0.0.3"));
    assert.deepEqual(source.problems(), []);
  }));

test("A file being written piece by piece is read when it is whole, never in between", () =>
  watching({ "a.yaml": service("a") }, async ({ directory, source }) => {
    const text = `${service("a", "10.0.0.5")}---\n${service("b")}`;
    for (let i = 0; i < text.length; i += 10) {
      write(directory, { "a.yaml": text.slice(0, i) });
      await new Promise((resolve) => setTimeout(resolve, 3));
      assert.ok(names(source.snapshot()).includes("a"));
    }
    write(directory, { "a.yaml": text });
    await eventually(() => assert.deepEqual(names(source.snapshot()), ["a", "b"]));
  }));

test("A file that becomes empty keeps its objects; one that becomes only comments does not", () =>
  watching({ "a.yaml": service("a"), "b.yaml": service("b") }, async ({ directory, source }) => {
    write(directory, { "a.yaml": "" });
    await eventually(() => assert.match(source.problems()[0]?.message ?? "", /the file is empty/));
    assert.deepEqual(names(source.snapshot()), ["a", "b"]);
    write(directory, { "a.yaml": "# nothing any more\n" });
    await eventually(() => assert.deepEqual(names(source.snapshot()), ["b"]));
    assert.deepEqual(source.problems(), []);
  }));

test("A bad document at the start is named, the rest of its file and folder is used", () =>
  watching({ "a.yaml": `${service("a")}---\nkind: "\n`, "b.yaml": service("b") }, async ({ source, log }) => {
    assert.deepEqual(names(source.snapshot()), ["a", "b"]);
    assert.equal(source.problems().length, 1);
    await eventually(() => assert.equal(log.length, 1));
  }));

test("When the first claimant of a name goes, the next one takes its place", () =>
  watching(
    { "a.yaml": service("web", "10.0.0.1"), "b.yaml": service("web", "10.0.0.2") },
    async ({ directory, source }) => {
      assert.equal(ipOf(source.snapshot(), "web"), "10.0.0.1");
      unlinkSync(join(directory, "a.yaml"));
      await eventually(() => assert.equal(ipOf(source.snapshot(), "web"), "10.0.0.2"));
      assert.deepEqual(source.problems(), []);
    },
  ));

test("A ConfigMap volume is read through its links, and followed when they are swapped", () =>
  inDirectory(async (directory) => {
    mkdirSync(join(directory, "..v1"));
    mkdirSync(join(directory, "..v2"));
    write(directory, { "..v1/a.yaml": service("old"), "..v2/a.yaml": service("new") });
    symlinkSync("..v1", join(directory, "..data"));
    symlinkSync("..data/a.yaml", join(directory, "a.yaml"));
    const handlers = { changed: () => undefined, log: () => undefined };
    const source = watchManifests([directory], "n", handlers, { settle_ms: 20, poll_ms: 60_000 });
    try {
      assert.deepEqual(names(source.snapshot()), ["old"]);
      symlinkSync("..v2", join(directory, "..data_tmp"));
      renameSync(join(directory, "..data_tmp"), join(directory, "..data"));
      rmSync(join(directory, "..v1"), { recursive: true });
      await eventually(() => assert.deepEqual(names(source.snapshot()), ["new"]));
    } finally {
      await source.close();
    }
  }));

test("A single watched file may be replaced by a rename", () =>
  watching(
    { "one.yaml": service("a") },
    async ({ directory, source }) => {
      write(directory, { "one.new": service("b") });
      renameSync(join(directory, "one.new"), join(directory, "one.yaml"));
      await eventually(() => assert.deepEqual(names(source.snapshot()), ["b"]));
    },
    { root: "one.yaml" },
  ));

test("A watched path that is gone keeps what it held, is named, and is taken up again when it is back", () =>
  inDirectory(async (directory) => {
    const root = join(directory, "m");
    mkdirSync(root);
    write(root, { "a.yaml": service("a") });
    const handlers = { changed: () => undefined, log: () => undefined };
    const source = watchManifests([`${root}/`], "n", handlers, { settle_ms: 20, poll_ms: 100 });
    try {
      renameSync(root, `${root}-away`);
      await eventually(() => assert.equal(source.problems()[0]?.object, root));
      await new Promise((resolve) => setTimeout(resolve, 300)); // three polls
      assert.deepEqual(names(source.snapshot()), ["a"]);
      mkdirSync(root);
      write(root, { "b.yaml": service("b") });
      await eventually(() => assert.deepEqual(names(source.snapshot()), ["b"]));
      assert.deepEqual(source.problems(), []);
    } finally {
      await source.close();
    }
  }));

test("The poll finds what no event told", () =>
  watching(
    { "b.yaml": service("b") },
    async ({ directory, source }) => {
      // A link to a file elsewhere: the folder hears nothing when that file is written.
      const outside = mkdtempSync(join(tmpdir(), "beeline-outside-"));
      try {
        write(outside, { "c.yaml": service("c", "10.0.0.1") });
        symlinkSync(join(outside, "c.yaml"), join(directory, "c.yaml"));
        await eventually(() => assert.equal(ipOf(source.snapshot(), "c"), "10.0.0.1"));
        write(outside, { "c.yaml": service("c", "10.0.0.2") });
        await eventually(() => assert.equal(ipOf(source.snapshot(), "c"), "10.0.0.2"));
      } finally {
        rmSync(outside, { recursive: true, force: true });
      }
    },
    { poll_ms: 50 },
  ));

test("A closed source is silent", () =>
  watching({ "a.yaml": service("a") }, async ({ directory, source, changes }) => {
    await eventually(() => assert.equal(changes(), 1));
    await source.close();
    write(directory, { "b.yaml": service("b") });
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.equal(changes(), 1);
  }));

test("An empty file among others is no error: it has no objects yet", () =>
  inDirectory((directory) => {
    write(directory, { "a.yaml": service("a"), "empty.yaml": "" });
    const { snapshot, problems } = readManifests([directory], "n");
    assert.deepEqual([names(snapshot), problems], [["a"], []]);
  }));

test("Of two roots the one named first wins, whatever they are called", () =>
  inDirectory((directory) => {
    for (const [name, ip] of [
      ["z", "10.0.0.1"],
      ["a", "10.0.0.2"],
    ] as const) {
      mkdirSync(join(directory, name));
      write(directory, { [`${name}/web.yaml`]: service("web", ip) });
    }
    const { snapshot } = readManifests([`${directory}/z/`, `${directory}/a//`], "n");
    assert.equal(ipOf(snapshot, "web"), "10.0.0.1");
  }));
