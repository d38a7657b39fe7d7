// `beeline version`: what a bug report needs.
import { release } from "node:os";
import { ABI_HASH } from "../dataplane/bpf/abi.gen.ts";
import { columns } from "../lib/text.ts";
import type { Run } from "./command.ts";
import { show } from "./report.ts";

export const version: Run = (args, io) =>
  show(args, io, () => {
    const fields = { beeline: io.version, mapLayout: ABI_HASH, node: process.versions.node, kernel: release() };
    return {
      kind: "Version",
      fields,
      text: () =>
        columns(
          null,
          Object.entries(fields).map(([name, value]) => [name, value]),
        ),
    };
  });
