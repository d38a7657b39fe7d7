// Writes src/dataplane/bpf/abi.gen.ts from the BTF of build/bpf/abi.bpf.o: struct layouts, record types, enums,
// maps and an ABI hash. `--check` writes nothing and fails when the committed file differs.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";

const OBJECT = "build/bpf/abi.bpf.o";
const OUTPUT = "src/dataplane/bpf/abi.gen.ts";

interface BtfType {
  readonly id: number;
  readonly kind: string;
  readonly name: string;
  readonly size?: number;
  readonly type_id?: number;
  readonly nr_elems?: number;
  readonly members?: readonly { name: string; type_id: number; bits_offset: number; bitfield_size?: number }[];
  readonly values?: readonly { name: string; val: number }[];
  readonly vars?: readonly { type_id: number }[];
}

interface Field {
  readonly name: string;
  readonly offset: number;
  readonly type: string;
  readonly count?: number;
}

const dump = JSON.parse(
  execFileSync("bpftool", ["btf", "dump", "-j", "file", OBJECT], { encoding: "utf8", maxBuffer: 1 << 26 }),
) as { types: BtfType[] };
const types = new Map(dump.types.map((t) => [t.id, t]));

const SCALARS: Readonly<Record<string, string>> = {
  __u8: "u8",
  __u16: "u16",
  __u32: "u32",
  __u64: "u64",
  __be16: "be16",
  __be32: "be32",
  int: "i32",
};

const main = (): void => {
  const enums = dump.types.filter((t) => t.kind === "ENUM" && t.name !== "(anon)").sort(byName);
  const definitions = readMaps();
  const maps = definitions.filter((map) => map.type !== RINGBUF);
  const rings = definitions.filter((map) => map.type === RINGBUF);
  const structs = new Map<string, { size: number; fields: Field[] }>();
  for (const map of maps) for (const name of [map.key, map.value]) collectStruct(name, structs);
  for (const name of ["options", "expiry", "stale_socket", ...rings.map((ring) => ring.value)])
    collectStruct(name, structs);
  const body = render(
    [...structs].sort(([a], [b]) => (a < b ? -1 : 1)),
    enums,
    maps,
    rings,
  );
  const hash = createHash("sha256").update(layoutText(structs, definitions)).digest("hex").slice(0, 12);
  const text = `${body}\n/** Names the pin directory: another layout of any struct or map is another hash. */\nexport const ABI_HASH = "${hash}";\n`;
  if (process.argv.includes("--check")) {
    if (readFileSync(OUTPUT, "utf8") !== text) {
      console.error(`${OUTPUT} does not match bpf/types.h and bpf/maps.h: run \`npm run gen-abi\` and commit it`);
      process.exit(1);
    }
    return;
  }
  writeFileSync(OUTPUT, text);
};

const byName = (a: { name: string }, b: { name: string }): number => (a.name < b.name ? -1 : 1);

const typeOf = (id: number): BtfType => {
  const type = types.get(id);
  if (type === undefined) throw new Error(`BTF type ${id} does not exist in ${OBJECT}`);
  return type;
};

/** Follows typedefs and qualifiers, but stops at a name that says the byte order or width. */
const resolve = (id: number): BtfType => {
  const type = typeOf(id);
  if (SCALARS[type.name] !== undefined) return type;
  if (["TYPEDEF", "CONST", "VOLATILE"].includes(type.kind) && type.type_id !== undefined) return resolve(type.type_id);
  return type;
};

const nameOf = (id: number): string => {
  const type = resolve(id);
  const scalar = SCALARS[type.name];
  if (scalar !== undefined) return scalar;
  if (type.kind === "STRUCT") return type.name;
  throw new Error(`${type.kind} ${type.name}: shared types are fixed-width integers, char arrays and structs`);
};

const sizeOf = (name: string): number => {
  const scalar: Readonly<Record<string, number>> = { u8: 1, u16: 2, u32: 4, u64: 8, be16: 2, be32: 4, i32: 4 };
  const size = scalar[name] ?? dump.types.find((t) => t.kind === "STRUCT" && t.name === name)?.size;
  if (size === undefined) throw new Error(`${name}: size unknown`);
  return size;
};

interface MapInfo {
  readonly name: string;
  readonly type: number;
  readonly key: string;
  readonly value: string;
  readonly max_entries: number;
}

/** A ring buffer has no key and no value by which to name its records: `events` is of `struct event`. */
const RINGBUF = 27;

/** libbpf's map definitions: an integer is a pointer to an array of that many, a type a pointer to it. */
const readMaps = (): MapInfo[] => {
  const section = dump.types.find((t) => t.kind === "DATASEC" && t.name === ".maps");
  return (section?.vars ?? [])
    .map((v): MapInfo => {
      const variable = typeOf(v.type_id);
      const definition = typeOf(variable.type_id ?? 0);
      const member = (name: string): number | undefined => {
        const found = definition.members?.find((m) => m.name === name);
        return found && typeOf(found.type_id).type_id;
      };
      const int = (name: string): number => {
        const id = member(name);
        return id === undefined ? 0 : (typeOf(id).nr_elems ?? 0);
      };
      const { name } = variable;
      const [type, max_entries] = [int("type"), int("max_entries")];
      if (type === RINGBUF) return { name, type, key: "", value: name.replace(/s$/, ""), max_entries };
      return { name, type, key: nameOf(member("key") ?? 0), value: nameOf(member("value") ?? 0), max_entries };
    })
    .sort(byName);
};

const collectStruct = (name: string, into: Map<string, { size: number; fields: Field[] }>): void => {
  const struct = dump.types.find((t) => t.kind === "STRUCT" && t.name === name);
  if (struct === undefined || into.has(name) || name === "addr") return;
  const fields: Field[] = [];
  let end = 0;
  for (const m of struct.members ?? []) {
    if (m.bitfield_size || m.bits_offset % 8 !== 0) throw new Error(`struct ${name}.${m.name}: bitfields are refused`);
    const offset = m.bits_offset / 8;
    if (offset !== end)
      throw new Error(`struct ${name}: a hole of ${offset - end} bytes before ${m.name}; name it pad`);
    const [called, type_id] = ofUnion(m);
    const field = fieldOf(called, offset, type_id);
    if (field.type !== "string") collectStruct(field.type, into);
    fields.push(field);
    end = offset + (field.type === "string" ? 1 : sizeOf(field.type)) * (field.count ?? 1);
  }
  if (end !== struct.size) throw new Error(`struct ${name}: ${(struct.size ?? 0) - end} bytes at its end have no name`);
  into.set(name, { size: struct.size ?? 0, fields });
};

/** What is one thing or another, of one size, is called by the first of its names. */
const ofUnion = ({ name, type_id }: { readonly name: string; readonly type_id: number }): readonly [string, number] => {
  const { kind, members: [first] = [] } = typeOf(type_id);
  return kind === "UNION" && first !== undefined ? [first.name, first.type_id] : [name, type_id];
};

const fieldOf = (name: string, offset: number, id: number): Field => {
  const type = resolve(id);
  if (type.kind !== "ARRAY" || type.type_id === undefined) return { name, offset, type: nameOf(id) };
  const count = type.nr_elems ?? 0;
  if (resolve(type.type_id).name === "char") return { name, offset, type: "string", count };
  return { name, offset, type: nameOf(type.type_id), count };
};

const pascal = (name: string): string => name.replace(/(^|_)([a-z0-9])/g, (_, __, c: string) => c.toUpperCase());

const typeScript = (field: Field): string => {
  if (field.type === "string") return "string";
  const one =
    field.type === "addr"
      ? "Address"
      : field.type === "u64"
        ? "bigint"
        : /^[ui]\d|^be/.test(field.type)
          ? "number"
          : pascal(field.type);
  return field.count === undefined ? one : `readonly ${one}[]`;
};

const isPad = (field: Field): boolean => /^pad\d*$/.test(field.name);

const layoutText = (structs: ReadonlyMap<string, unknown>, maps: readonly MapInfo[]): string =>
  JSON.stringify([[...structs].sort(([a], [b]) => (a < b ? -1 : 1)), maps.map(({ max_entries: _, ...rest }) => rest)]);

const render = (
  structs: readonly [string, { size: number; fields: Field[] }][],
  enums: readonly BtfType[],
  maps: readonly MapInfo[],
  rings: readonly MapInfo[],
): string => {
  const out = [
    "// Generated by scripts/gen-abi.ts from bpf/types.h and bpf/maps.h. Do not edit: `npm run gen-abi`.",
    'import type { Address } from "../../model/address.ts";',
    "",
  ];
  for (const [name, { fields }] of structs) {
    out.push(`export interface ${pascal(name)} {`);
    for (const f of fields.filter((f) => !isPad(f))) out.push(`  readonly ${f.name}: ${typeScript(f)};`);
    out.push("}", "");
  }
  out.push("/** Struct name to its record type. */", "export interface Records {");
  for (const [name] of structs) out.push(`  readonly ${name}: ${pascal(name)};`);
  out.push(
    "  readonly addr: Address;",
    "  readonly u32: number;",
    "  readonly u64: bigint;",
    "  readonly i32: number;",
    "}",
    "",
  );
  out.push("/** Struct name to bytes: offsets and sizes in bytes, `count` for arrays. Padding is not a field. */");
  out.push("export const layouts = {");
  for (const [name, { size, fields }] of structs) {
    out.push(`  ${name}: {`, `    size: ${size},`, "    fields: [");
    for (const f of fields.filter((f) => !isPad(f))) {
      const count = f.count === undefined ? "" : `, count: ${f.count}`;
      out.push(`      { name: "${f.name}", offset: ${f.offset}, type: "${f.type}"${count} },`);
    }
    out.push("    ],", "  },");
  }
  out.push("} as const;", "");
  for (const e of enums) {
    out.push(`export const ${e.name} = {`);
    for (const v of e.values ?? []) out.push(`  ${v.name}: ${v.val},`);
    out.push("} as const;", "");
  }
  out.push("/** Map name to its BPF map type, key, value and default size in entries. */", "export const maps = {");
  for (const m of maps) {
    out.push(`  ${m.name}: { type: ${m.type}, key: "${m.key}", value: "${m.value}", max_entries: ${m.max_entries} },`);
  }
  out.push("} as const;", "", "/** Ring buffer to its record and its size in bytes. */", "export const rings = {");
  for (const { name, value, max_entries } of rings) {
    out.push(`  ${name}: { record: "${value}", size_bytes: ${max_entries} },`);
  }
  out.push("} as const;", "");
  return out.join("\n");
};

main();
