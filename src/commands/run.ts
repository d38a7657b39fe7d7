// `beeline run`: the node agent, or with --observe one that only compares, until SIGTERM or SIGINT.
import { loadConfig } from "../agent/config.ts";
import { createLog } from "../agent/log.ts";
import { runAgent } from "../agent/start.ts";
import type { Run } from "./command.ts";

export const run: Run = async (args, io) => {
  const { config, warnings } = loadConfig(args);
  const log = createLog(config.logging, (line) => io.err(line));
  for (const warning of warnings) log("warn", warning);
  if (args.observe === true) {
    const { runObserver } = await import("../agent/observe.ts");
    await runObserver(config, log, io.version, io.signal);
  } else {
    await runAgent(config, log, io.version, io.signal);
  }
  return 0;
};
