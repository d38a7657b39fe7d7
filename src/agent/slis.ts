// /metrics/slis, as Kubernetes components have it: each health check as a gauge, and how often it was asked with which
// result. A scrape is one question.
import { Counter, Gauge, Registry } from "prom-client";

export interface Slis {
  readonly contentType: string;
  scrape(): Promise<string>;
}

/** `checks` by the type that they are asked as: livez, healthz. */
export const createSlis = (checks: Readonly<Record<string, () => boolean>>): Slis => {
  const registry = new Registry();
  const registers = [registry];
  const result = new Gauge({
    name: "kubernetes_healthcheck",
    help: "The result of a health check: 1 when it passes",
    labelNames: ["name", "type"],
    registers,
  });
  const results = new Counter({
    name: "kubernetes_healthchecks_total",
    help: "Results of health checks by status",
    labelNames: ["name", "status", "type"],
    registers,
  });
  const ask = (): void => {
    for (const [type, passes] of Object.entries(checks)) {
      const passed = passes();
      result.set({ name: "proxy", type }, passed ? 1 : 0);
      results.inc({ name: "proxy", status: passed ? "success" : "error", type });
    }
  };
  return {
    contentType: registry.contentType,
    scrape: () => {
      ask();
      return registry.metrics();
    },
  };
};
