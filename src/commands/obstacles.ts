// What stands in the way of direct forwarding on this node now, as the agent sees it, and by which devices packets go.
import { findObstacles } from "../agent/obstacles.ts";
import { linkPins, pinnedPrograms } from "../dataplane/bpf/attach.ts";
import { type Fitness, foreignObstacles, readFitness } from "../dataplane/bpf/fitness.ts";
import type { Obstacle } from "../dataplane/obstacle.ts";

/** `links`: where programs are pinned; null: nowhere. */
export const obstaclesHere = async (links: string | null): Promise<readonly Obstacle[]> => {
  const foreign = links === null ? [] : foreignObstacles(nodeDevicesIn(links), pinnedPrograms(links));
  return [...foreign, ...(await findObstacles())];
};

export const unfitDevices = (links: string): readonly Fitness[] =>
  readFitness(nodeDevicesIn(links), pinnedPrograms(links)).filter(({ why }) => why !== null);

const nodeDevicesIn = (links: string): readonly string[] =>
  linkPins(links).flatMap((pin) => (pin.kind !== "cgroup" && pin.role === "node" ? [pin.device] : []));
