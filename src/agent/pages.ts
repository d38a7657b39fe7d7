// The pages of the agent's two servers, at kube-proxy's paths, and the keeping up of the servers.
import { messageOf, RefusedError } from "../lib/errors.ts";
import { formatHostPort, parseAddress } from "../model/address.ts";
import type { Bind, Config } from "./config.ts";
import type { Health } from "./health.ts";
import { type HttpServer, json, type Reply, serve, text } from "./http.ts";
import type { Log } from "./log.ts";
import type { Metrics } from "./metrics.ts";
import { createSlis } from "./slis.ts";

/** What the pages are made of. */
export interface Answering {
  readonly health: Health;
  readonly metrics: Metrics;
  /** Something is programmed. */
  ready(): boolean;
}

interface Serving {
  readonly config: Config;
  readonly log: Log;
  /** Those that are up; the caller closes them. */
  readonly servers: HttpServer[];
  readonly signal: AbortSignal;
}

/** Serves health and metrics, each where the configuration says. Throws RefusedError with bindAddressHardFail only. */
export const serveAll = async (answering: Answering, serving: Serving): Promise<void> => {
  const { config } = serving;
  await keepServing("healthz", config.healthzBindAddress, answers(healthPages(answering)), serving);
  await keepServing("metrics", config.metricsBindAddress, answers(metricsPages(config, answering)), serving);
};

type Pages = Readonly<Record<string, () => Reply | Promise<Reply>>>;

const healthPages = ({ health, metrics, ready }: Answering): Pages => {
  const counted = (probe: "healthz" | "livez", reply: Reply): Reply => {
    metrics.probed(probe, reply.status);
    return reply;
  };
  return {
    "/healthz": () => counted("healthz", health.healthz()),
    "/livez": () => counted("livez", health.livez()),
    "/readyz": () => (ready() ? text(200, "ok") : text(503, "nothing is programmed yet")),
  };
};

const metricsPages = (config: Config, { metrics, health, ready }: Answering): Pages => {
  const slis = createSlis({ healthz: health.healthy, readyz: ready });
  return {
    "/metrics": () => scraped(metrics),
    "/metrics/slis": () => scraped(slis),
    "/healthz": () => text(200, "ok"),
    "/proxyMode": () => text(200, config.dataplane),
    "/configz": () => json(200, `${JSON.stringify({ "beeline.dev": config }, null, 2)}\n`),
  };
};

const scraped = async (source: Pick<Metrics, "contentType" | "scrape">): Promise<Reply> => ({
  status: 200,
  headers: { "Content-Type": source.contentType, "X-Content-Type-Options": "nosniff" },
  body: await source.scrape(),
});

const answers =
  (pages: Pages) =>
  (path: string): Reply | Promise<Reply> =>
    pages[path]?.() ?? text(404, "not found\n");

// ---- servers -------------------------------------------------------------------------------------------------------

const RETRY_MS = 5_000;

/**
 * Serves at `bind` (null: not at all). A port that cannot be had is tried again every five seconds, as kube-proxy does;
 * with bindAddressHardFail it is a RefusedError.
 */
const keepServing = async (
  name: string,
  bind: Bind | null,
  answer: (path: string) => Reply | Promise<Reply>,
  run: Serving,
): Promise<void> => {
  if (bind === null || run.signal.aborted) return;
  const address = formatBind(bind);
  try {
    const server = await serve(bind, answer);
    run.servers.push(server);
    run.log("info", `Serving ${name}`, { address: server.address });
    if (run.signal.aborted) server.close();
  } catch (error) {
    const message = `Cannot serve ${name} at ${address}`;
    if (run.config.bindAddressHardFail) throw new RefusedError(`${message}: ${messageOf(error)}`, { cause: error });
    run.log("error", `${message}; trying again`, { error: messageOf(error), in_ms: RETRY_MS });
    setTimeout(() => void keepServing(name, bind, answer, run), RETRY_MS).unref();
  }
};

const formatBind = ({ host, port }: Bind): string => {
  const address = parseAddress(host);
  return address === null ? `${host}:${port}` : formatHostPort(address, port);
};
