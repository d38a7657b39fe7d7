// What a file holds of a node, told by its content: iptables-save, nft -j, ipvsadm -Sn, or what beeline compile printed.
import { readFileSync } from "node:fs";
import { desiredFromJson } from "../compile/desired-json.ts";
import { type Reading, wholeReading } from "../compile/reading.ts";
import { readIptables } from "../dataplane/iptables/readback.ts";
import { readIpvs } from "../dataplane/ipvs/readback.ts";
import { readNftables } from "../dataplane/nftables/readback.ts";
import { InputError } from "../lib/errors.ts";

/**
 * Several files are one source where they are iptables-save's, one for each family. `-` is the standard input. Throws
 * InputError when a file cannot be read, is something else, or does not go together with the others.
 */
export const readFiles = (paths: readonly string[]): Reading => {
  const files = paths.map((path) => {
    const text = readText(path);
    return { path, text, format: formatOf(text, path) };
  });
  const [first] = files;
  if (first === undefined) throw new InputError("No file given");
  const from = paths.map((path) => (path === "-" ? "standard input" : path)).join(", ");
  const odd = files.find(({ format }) => format !== first.format);
  if (odd !== undefined)
    throw new InputError(`Cannot read ${from} as one: ${first.path} is ${first.format}, ${odd.path} is ${odd.format}`);
  if (files.length > 1 && first.format !== "iptables-save")
    throw new InputError(`Cannot read ${from} as one: only the two families of iptables-save are several files`);
  switch (first.format) {
    case "iptables-save":
      return readIptables(
        files.map(({ path, text }) => ({ text, name: path, family: null })),
        { from, localAddresses: null },
      );
    case "nft -j":
      return readNftables([first.text], { from, localAddresses: null, families: null });
    case "ipvsadm -Sn":
      return readIpvs(first.text, from);
    case "beeline compile -o json":
      return wholeReading("desired", from, desiredFromJson(JSON.parse(first.text), from));
  }
};

type FileFormat = "iptables-save" | "nft -j" | "ipvsadm -Sn" | "beeline compile -o json";

const readText = (path: string): string => {
  try {
    return readFileSync(path === "-" ? 0 : path, "utf8");
  } catch (cause) {
    throw new InputError(`Cannot read ${path}`, { cause });
  }
};

const formatOf = (text: string, path: string): FileFormat => {
  if (/^\s*\{/.test(text)) {
    const fields = parseJson(text, path);
    if ("nftables" in fields) return "nft -j";
    if (fields.kind === "Desired") return "beeline compile -o json";
    throw new InputError(
      `Cannot use ${path}: expected ${EXPECTED}, got JSON of kind ${JSON.stringify(fields.kind ?? null)}`,
    );
  }
  if (/^\*[a-z]+\s*$/m.test(text)) return "iptables-save";
  if (/^-A (-[tuf]|--\w+-service) /m.test(text)) return "ipvsadm -Sn";
  if (/^(apiVersion|kind):/m.test(text))
    throw new InputError(`Cannot use ${path}: it holds manifests, which are given with -f and compared as "desired"`);
  throw new InputError(`Cannot use ${path}: expected ${EXPECTED}`);
};

const EXPECTED = "what iptables-save, nft -j list ruleset, ipvsadm -Sn or beeline compile -o json print";

const parseJson = (text: string, path: string): Readonly<Record<string, unknown>> => {
  try {
    return JSON.parse(text) as Readonly<Record<string, unknown>>;
  } catch (cause) {
    throw new InputError(`Cannot read ${path} as JSON`, { cause });
  }
};
