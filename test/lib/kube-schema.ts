// Is this object one that the Kubernetes API would take? Strict: no unknown field, the right types, nothing required
// missing. The schemas are the generated models of @kubernetes/client-node: attributeTypeMap names fields and types,
// the declaration beside it says which are required. Values that only the server knows to be wrong are in ENUMS.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import * as client from "@kubernetes/client-node";

interface Attribute {
  readonly baseName: string;
  readonly type: string;
  readonly format: string;
}

const KINDS: Readonly<Record<string, string>> = {
  "v1/ServiceAccount": "V1ServiceAccount",
  "v1/ConfigMap": "V1ConfigMap",
  "v1/Namespace": "V1Namespace",
  "v1/Node": "V1Node",
  "v1/Service": "V1Service",
  "discovery.k8s.io/v1/EndpointSlice": "V1EndpointSlice",
  "apps/v1/DaemonSet": "V1DaemonSet",
  "rbac.authorization.k8s.io/v1/ClusterRole": "V1ClusterRole",
  "rbac.authorization.k8s.io/v1/ClusterRoleBinding": "V1ClusterRoleBinding",
};

/** "Model.field" to its values, by the API reference. */
const ENUMS: Readonly<Record<string, readonly string[]>> = {
  "V1AppArmorProfile.type": ["Localhost", "RuntimeDefault", "Unconfined"],
  "V1SeccompProfile.type": ["Localhost", "RuntimeDefault", "Unconfined"],
  "V1Container.terminationMessagePolicy": ["File", "FallbackToLogsOnError"],
  "V1Container.imagePullPolicy": ["Always", "IfNotPresent", "Never"],
  "V1ContainerPort.protocol": ["TCP", "UDP", "SCTP"],
  "V1DaemonSetUpdateStrategy.type": ["RollingUpdate", "OnDelete"],
  "V1HostPathVolumeSource.type": ["", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket", "CharDevice"],
  "V1NodeSelectorRequirement.operator": ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"],
  "V1PodSpec.dnsPolicy": ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
  "V1Toleration.effect": ["NoExecute", "NoSchedule", "PreferNoSchedule"],
  "V1Toleration.operator": ["Exists", "Equal"],
  "V1VolumeMount.mountPropagation": ["None", "HostToContainer", "Bidirectional"],
};

const MODELS = join(dirname(createRequire(import.meta.url).resolve("@kubernetes/client-node")), "gen", "models");

/** What is wrong with a whole object, one line each with its path. `partial`: a patch, which need not be complete. */
export const schemaProblems = (object: unknown, options: { readonly partial?: boolean } = {}): readonly string[] => {
  if (!isRecord(object)) return ["not an object"];
  const kind = `${object.apiVersion}/${object.kind}`;
  const model = KINDS[kind];
  if (model === undefined) return [`${kind}: unknown kind`];
  return checkModel(object, model, String(object.kind), options.partial ?? false);
};

/** The same for a part of an object, named by its model: `V1PodSpec`. */
export const partProblems = (part: unknown, model: string, options: { readonly partial?: boolean } = {}) =>
  checkModel(part, model, model, options.partial ?? false);

const checkModel = (value: unknown, model: string, path: string, partial: boolean): readonly string[] => {
  if (!isRecord(value)) return [`${path}: not an object`];
  const attributes = attributesOf(model);
  const problems: string[] = [];
  for (const [name, field] of Object.entries(value)) {
    const attribute = attributes.find((a) => a.baseName === name);
    if (attribute === undefined) problems.push(`${path}.${name}: unknown field of ${model}`);
    else problems.push(...checkType(field, attribute.type, attribute.format, `${path}.${name}`, partial));
    const values = ENUMS[`${model}.${name}`];
    if (values !== undefined && !values.includes(String(field)))
      problems.push(`${path}.${name}: ${JSON.stringify(field)} is none of ${values.join(", ")}`);
  }
  if (partial) return problems;
  const missing = requiredOf(model).filter((name) => !(name in value));
  return [...problems, ...missing.map((name) => `${path}.${name}: required, and missing`)];
};

const checkType = (value: unknown, type: string, format: string, path: string, partial: boolean): readonly string[] => {
  const element = /^Array<(.*)>$/.exec(type)?.[1];
  if (element !== undefined) {
    if (!Array.isArray(value)) return [`${path}: not a list`];
    return value.flatMap((item, i) => checkType(item, element, "", `${path}[${i}]`, partial));
  }
  const entry = /^\{ \[key: string\]: (.*); \}$/.exec(type)?.[1];
  if (entry !== undefined) {
    if (!isRecord(value)) return [`${path}: not a map`];
    return Object.entries(value).flatMap(([key, item]) => checkType(item, entry, "", `${path}[${key}]`, partial));
  }
  if (type === "any") return [];
  if (type === "IntOrString")
    return Number.isInteger(value) || typeof value === "string" ? [] : [`${path}: neither integer nor string`];
  if (type === "string" || type === "Date") return typeof value === "string" ? [] : [`${path}: not a string`];
  if (type === "boolean") return typeof value === "boolean" ? [] : [`${path}: not a boolean`];
  if (type === "number") {
    const ok = typeof value === "number" && (!format.startsWith("int") || Number.isInteger(value));
    return ok ? [] : [`${path}: not a number of format ${format}`];
  }
  return checkModel(value, type, path, partial);
};

const attributesOf = (model: string): readonly Attribute[] => {
  const exported = (client as unknown as Record<string, { attributeTypeMap?: readonly Attribute[] } | undefined>)[
    model
  ];
  if (exported?.attributeTypeMap === undefined) throw new Error(`client-node has no model ${model}`);
  return exported.attributeTypeMap;
};

/** A field is required when its declaration has no question mark. */
const requiredOf = (model: string): readonly string[] => {
  const declaration = readFileSync(join(MODELS, `${model}.d.ts`), "utf8");
  return [...declaration.matchAll(/^ {4}'(\w+)': /gm)].map(([, name = ""]) => name);
};

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
