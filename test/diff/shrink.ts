// From a disagreement to the smallest cluster that still shows it: Services, slices, endpoints and fields are taken
// away one after another, greedily, and the one probe is asked again in the lab. Bounded in time.
import { complaintsOf } from "./ask.ts";
import type { Cluster, ServiceDraw, SliceDraw } from "./cluster.ts";
import type { Disagreement } from "./compare.ts";
import { caseOf } from "./differences.ts";
import type { Labs } from "./labs.ts";
import { clusterObjects } from "./objects.ts";

const LONGEST_MS = 30_000;

/** The disagreement in a cluster from which nothing more can be taken; itself when it does not show again. */
export const shrink = async (labs: Labs, found: Disagreement): Promise<Disagreement> => {
  const deadline = performance.now() + LONGEST_MS;
  let smallest = found;
  for (let progress = true; progress; ) {
    progress = false;
    for (const cluster of smallerThan(smallest.cluster)) {
      if (performance.now() > deadline) return smallest;
      const still = await ask(labs, { ...smallest, cluster });
      if (still === null) continue;
      smallest = still;
      progress = true;
      break;
    }
  }
  return smallest;
};

/** The probe asked again in a cluster; null: nothing is wrong. */
export const ask = async (labs: Labs, disagreement: Disagreement): Promise<Disagreement | null> => {
  const { dataplane, forwarding, cluster, one } = disagreement;
  const world = await labs.apply(clusterObjects(cluster, labs.places));
  const lab = labs.labs.get(dataplane);
  if (lab === undefined) return null;
  const again = caseOf(world, one.probe);
  const complaint = (await complaintsOf(lab, dataplane, [again])).get(again);
  return complaint === undefined ? null : { dataplane, forwarding, cluster, one: again, complaint };
};

/** Big steps first: all Services but one, then all but a half, then a single one less, then parts of each. */
const smallerThan = function* (cluster: Cluster): Generator<Cluster> {
  const { services } = cluster;
  const alive = services.flatMap((service, i) => (service === null ? [] : [i]));
  const keep = (wanted: ReadonlySet<number>): Cluster => ({
    ...cluster,
    services: services.map((service, i) => (wanted.has(i) ? service : null)),
  });
  if (alive.length > 2) {
    const half = alive.length / 2;
    yield keep(new Set(alive.slice(0, half)));
    yield keep(new Set(alive.slice(half)));
  }
  if (alive.length > 1) for (const i of alive) yield keep(new Set(alive.filter((k) => k !== i)));
  for (const i of alive) {
    for (const smaller of smallerServices(services[i] as ServiceDraw))
      yield { ...cluster, services: services.map((service, k) => (k === i ? smaller : service)) };
  }
};

const PLAIN: Partial<ServiceDraw> = {
  externalIPs: [],
  balancers: [],
  sourceRanges: [],
  internalTrafficPolicy: null,
  externalTrafficPolicy: null,
  affinity_timeout_s: null,
  oddity: null,
  created_s: null,
  nodePorts: false,
};

const smallerServices = function* (draw: ServiceDraw): Generator<ServiceDraw> {
  for (const i of draw.slices.keys()) yield { ...draw, slices: draw.slices.filter((_, k) => k !== i) };
  for (const [i, slice] of draw.slices.entries()) {
    for (const smaller of smallerSlices(slice)) yield { ...draw, slices: draw.slices.with(i, smaller) };
  }
  for (const [field, value] of Object.entries(PLAIN)) {
    if (JSON.stringify(draw[field as keyof ServiceDraw]) !== JSON.stringify(value)) yield { ...draw, [field]: value };
  }
  if (draw.ports.length > 1) for (const i of draw.ports.keys()) yield { ...draw, ports: draw.ports.toSpliced(i, 1) };
};

const smallerSlices = function* (slice: SliceDraw): Generator<SliceDraw> {
  const { endpoints } = slice;
  for (const i of endpoints.keys()) yield { ...slice, endpoints: endpoints.toSpliced(i, 1) };
  for (const [i, endpoint] of endpoints.entries()) {
    if (endpoint.zones.length + endpoint.nodes.length > 0)
      yield { ...slice, endpoints: endpoints.with(i, { ...endpoint, zones: [], nodes: [] }) };
  }
};
