// The example manifests brought to life in a lab: a copy of examples/ that the agents watch, and for each endpoint in it
// a server in the pod that has its address, called as its targetRef says. Editing the copy is what a cluster would do.
import { cpSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Document, parseAllDocuments } from "yaml";
import type { Transport } from "../test/lib/host/protocol.ts";
import type { Lab } from "../test/lib/lab.ts";
import type { Place } from "../test/lib/network.ts";

/** A pod as the demo speaks of it: its name, and the namespace of the lab it is in. */
export interface Pod {
  readonly name: string;
  readonly place: Place;
}

interface Endpoint {
  readonly addresses: readonly string[];
  readonly targetRef: { readonly name: string };
}

interface Port {
  readonly port: number;
  readonly protocol: Transport;
}

export class DemoCluster {
  /** The folder that the agents watch. */
  readonly manifests: string;
  readonly #lab: Lab;
  /** Names of pods whose servers run, by service: `web/web-1`. */
  readonly #serving = new Set<string>();

  constructor(lab: Lab, examples: string) {
    this.#lab = lab;
    this.manifests = join(lab.directory, "manifests");
    cpSync(examples, this.manifests, { recursive: true });
  }

  /** Starts a server for every endpoint in the manifests. */
  async startServers(): Promise<void> {
    const services = readdirSync(this.manifests).map((file) => file.replace(".yaml", ""));
    await Promise.all(services.flatMap((service) => this.pods(service).map((pod) => this.#serve(service, pod))));
  }

  /** The pods behind a service, as its manifest has them now. */
  pods(service: string): readonly Pod[] {
    const slice = slices(this.#read(service))[0];
    const endpoints: readonly Endpoint[] = slice?.toJS().endpoints ?? [];
    return endpoints.map(({ addresses, targetRef }) => ({
      name: targetRef.name,
      place: this.#placeOf(addresses[0] ?? ""),
    }));
  }

  /** Starts what is new among these pods, then writes them into the service's manifest. Others run on until end(). */
  async setPods(service: string, pods: readonly Pod[]): Promise<void> {
    await Promise.all(pods.map((pod) => this.#serve(service, pod)));
    const documents = this.#read(service);
    for (const slice of slices(documents)) {
      const family = slice.get("addressType") === "IPv6" ? "v6" : "v4";
      slice.set(
        "endpoints",
        pods.map((pod) => endpoint(pod, family)),
      );
    }
    const path = this.#path(service);
    const temporary = join(this.#lab.directory, "edited.yaml");
    writeFileSync(temporary, documents.map(String).join("---\n"));
    renameSync(temporary, path);
  }

  /** Ends the servers of a pod that is no endpoint any more. */
  async end(service: string, pod: Pod): Promise<void> {
    this.#serving.delete(`${service}/${pod.name}`);
    const host = await this.#lab.host(pod.place.name);
    for (const { port, protocol } of this.#ports(service)) await host.stopServing(port, protocol);
  }

  async #serve(service: string, pod: Pod): Promise<void> {
    if (this.#serving.has(`${service}/${pod.name}`)) return;
    this.#serving.add(`${service}/${pod.name}`);
    const host = await this.#lab.host(pod.place.name);
    for (const { port, protocol } of this.#ports(service)) await host.serve(pod.name, port, protocol);
  }

  #ports(service: string): readonly Port[] {
    return slices(this.#read(service))[0]?.toJS().ports ?? [];
  }

  #placeOf(address: string): Place {
    const place = this.#lab.places.find((p) => p.v4 === address || p.v6 === address);
    if (place === undefined) throw new Error(`An example names the endpoint ${address}, which no pod of the lab has`);
    return place;
  }

  #path(service: string): string {
    return join(this.manifests, `${service}.yaml`);
  }

  #read(service: string): readonly Document[] {
    return parseAllDocuments(readFileSync(this.#path(service), "utf8")) as readonly Document[];
  }
}

const slices = (documents: readonly Document[]): readonly Document[] =>
  documents.filter((document) => document.get("kind") === "EndpointSlice");

const endpoint = ({ name, place }: Pod, family: "v4" | "v6"): object => ({
  addresses: [place[family]],
  conditions: { ready: true, serving: true, terminating: false },
  nodeName: place.node,
  targetRef: { kind: "Pod", name, namespace: "default" },
});
