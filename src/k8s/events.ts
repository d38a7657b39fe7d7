// Problems as Kubernetes Events, so that `kubectl describe service` shows them to the object's owner. One Event for one
// problem in the whole cluster: its name follows from the problem, and the second node is told that it exists. Events
// are a courtesy: few at a time, and what cannot be posted is dropped, with one line in the log.
import { createHash } from "node:crypto";
import { messageOf } from "../lib/errors.ts";
import { type ObjectKey, objectKey, type Problem } from "../model/snapshot.ts";
import type { Api } from "./api.ts";
import { isApiError } from "./api-error.ts";
import type { SourceHandlers } from "./source.ts";

export interface EventOptions {
  /** Named as the one that reports. */
  readonly nodeName: string;
  /** "" when it is not known: the Event is then found by name only. */
  readonly uidOf: (service: ObjectKey) => string;
  readonly log: SourceHandlers["log"];
  readonly now_ms: () => number;
  /** Least time between two Events. */
  readonly pause_ms: number;
}

const MAX_WAITING = 200;
const MAX_REMEMBERED = 10_000;
const MAX_NOTE = 1024; // the API server's limit
const TIMEOUT_MS = 10_000;
const CONFLICT = 409;

const API_VERSIONS: Readonly<Record<string, string>> = { EndpointSlice: "discovery.k8s.io/v1" };

export class EventRecorder {
  readonly #api: Api;
  readonly #options: EventOptions;
  readonly #signal: AbortSignal;
  readonly #recorded = new Set<string>();
  readonly #waiting: Problem[] = [];
  #posting = false;
  #refused = "";

  constructor(api: Api, options: EventOptions, signal: AbortSignal) {
    this.#api = api;
    this.#options = options;
    this.#signal = signal;
  }

  /** Posts those that were not recorded before; comes back at once. */
  record(problems: readonly Problem[]): void {
    for (const problem of problems) {
      const text = JSON.stringify(problem);
      if (this.#recorded.has(text) || this.#waiting.length >= MAX_WAITING) continue;
      if (this.#recorded.size >= MAX_REMEMBERED) this.#recorded.clear();
      this.#recorded.add(text);
      this.#waiting.push(problem);
    }
    if (!this.#posting) void this.#postAll();
  }

  async #postAll(): Promise<void> {
    this.#posting = true;
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      if (this.#signal.aborted) break;
      await this.#post(next);
      await new Promise((resolve) => setTimeout(resolve, this.#options.pause_ms).unref());
    }
    this.#posting = false;
  }

  async #post(problem: Problem): Promise<void> {
    const event = eventOf(problem, this.#options);
    if (event === null) return;
    const path = `/apis/events.k8s.io/v1/namespaces/${event.metadata.namespace}/events`;
    try {
      await this.#api.post(path, event, TIMEOUT_MS, this.#signal);
      this.#refused = "";
    } catch (error) {
      if (this.#signal.aborted || (isApiError(error) && error.status === CONFLICT)) return;
      const why = messageOf(error);
      if (why !== this.#refused) this.#options.log("info", `Cannot post an Event: ${why}`, { about: problem.object });
      this.#refused = why;
    }
  }
}

/** null: a problem of something that is no object of the cluster. */
const eventOf = (
  { object, path, message }: Problem,
  { nodeName, uidOf, now_ms }: Pick<EventOptions, "nodeName" | "uidOf" | "now_ms">,
) => {
  const match = /^(\S+) (?:([^\s/]+)\/)?([^\s/]+)$/.exec(object);
  if (match?.[1] === undefined || match[3] === undefined) return null;
  const [, kind, namespace = "default", name] = match;
  const hash = createHash("sha256").update(`${object}\n${path}\n${message}`).digest("hex").slice(0, 16);
  const uid = kind === "Service" ? uidOf(objectKey(namespace, name)) : "";
  return {
    apiVersion: "events.k8s.io/v1",
    kind: "Event",
    metadata: { name: `${name.slice(0, 200)}.${hash}`, namespace },
    // MicroTime, which wants six digits.
    eventTime: new Date(now_ms()).toISOString().replace("Z", "000Z"),
    reportingController: "beeline.dev/agent",
    reportingInstance: nodeName,
    action: "Program",
    reason: "NotUsed",
    type: "Warning",
    note: `${path && `${path}: `}${message}`.slice(0, MAX_NOTE),
    regarding: {
      apiVersion: API_VERSIONS[kind] ?? "v1",
      kind,
      namespace,
      name,
      ...(uid === "" ? {} : { uid }),
    },
  };
};
