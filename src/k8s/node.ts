// A Node object as a value: where it is, which addresses it has, whether it is going away.
import { type Address, parsePrefix } from "../model/address.ts";
import type { Node } from "../model/snapshot.ts";
import { address, at, type Field, isAbsent, items, member, problem, text } from "./field.ts";
import { labelField, type Meta } from "./meta.ts";

export const readNode = (meta: Meta): Node => ({
  name: meta.name,
  addresses: [...readAddresses(meta, "InternalIP"), ...readAddresses(meta, "ExternalIP")],
  zone: text(labelField(meta, "topology.kubernetes.io/zone")),
  podCIDRs: readPodCIDRs(member(meta.root, "spec")),
  deleting: !isAbsent(at(meta.root, "metadata", "deletionTimestamp")),
  taints: items(at(meta.root, "spec", "taints")).flatMap((taint) => text(member(taint, "key")) ?? []),
});

const readAddresses = (meta: Meta, type: string): readonly Address[] =>
  items(at(meta.root, "status", "addresses"))
    .filter((item) => member(item, "type").value === type)
    .flatMap((item) => address(member(item, "address")) ?? []);

const readPodCIDRs = (spec: Field): Node["podCIDRs"] => {
  const list = items(member(spec, "podCIDRs"));
  const single = member(spec, "podCIDR");
  const fields = list.length > 0 || isAbsent(single) || single.value === "" ? list : [single];
  return fields.flatMap((field) => {
    const prefix = typeof field.value === "string" ? parsePrefix(field.value) : null;
    return prefix ?? problem(field, "is not an address range") ?? [];
  });
};
