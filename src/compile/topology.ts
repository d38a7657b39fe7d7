// Topology hints: which ready endpoints are near enough. The EndpointSlice controller decides who gets a hint; this
// only follows, all or nothing, as kube-proxy does: one endpoint without a hint switches that level off.
import type { NodeFacts, PortEndpoint } from "./endpoints.ts";

/**
 * Answers whether an endpoint takes part in the cluster list: those that hint this node, if every ready endpoint hints
 * some node and one hints this one; else the same with zones; else all.
 */
export const topologyFilter = (
  ready: readonly PortEndpoint[],
  { nodeName, zone }: NodeFacts,
): ((endpoint: PortEndpoint) => boolean) => {
  const onNode = ({ conditions }: PortEndpoint): boolean => conditions.hintNodes.includes(nodeName);
  if (ready.every((e) => e.conditions.hintNodes.length > 0) && ready.some(onNode)) return onNode;
  if (zone === null) return () => true;
  const inZone = ({ conditions }: PortEndpoint): boolean => conditions.hintZones.includes(zone);
  if (ready.every((e) => e.conditions.hintZones.length > 0) && ready.some(inZone)) return inZone;
  return () => true;
};
