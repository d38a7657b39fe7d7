// Filters of tc on clsact: where there is no tcx (kernels before 6.6).
import { checkLibbpf, EEXIST, EINVAL, ENODEV, ENOENT } from "./errors.ts";
import { libbpf } from "./libbpf.ts";

export type TcDirection = "ingress" | "egress";

/** clsact (kernels before 6.6): adds the qdisc when it is missing, then adds or replaces the filter. */
export const clsactAttach = (
  ifindex: number,
  direction: TcDirection,
  program: number,
  handle: number,
  priority: number,
): void => {
  const l = libbpf();
  const created = l.tc_hook_create(tcHook(ifindex, "both")) as number;
  if (created !== -EEXIST) checkLibbpf(`Cannot add the clsact qdisc to interface ${ifindex}`, created);
  const answer = l.tc_attach(tcHook(ifindex, direction), tcOptions(program, handle, priority, true)) as number;
  checkLibbpf(`Cannot attach to clsact ${direction} of interface ${ifindex}`, answer);
};

/** Id of the program at this handle and priority, or null. */
export const clsactQuery = (
  ifindex: number,
  direction: TcDirection,
  handle: number,
  priority: number,
): number | null => {
  const options = tcOptions(0, handle, priority, false);
  const answer = libbpf().tc_query(tcHook(ifindex, direction), options) as number;
  if (answer === -ENOENT || answer === -EINVAL || answer === -ENODEV) return null;
  checkLibbpf(`Cannot query clsact ${direction} of interface ${ifindex}`, answer);
  return new DataView(options.buffer).getUint32(16, true);
};

/** Removes the filter; absent is fine. The qdisc stays: others may use it. */
export const clsactDetach = (ifindex: number, direction: TcDirection, handle: number, priority: number): void => {
  const answer = libbpf().tc_detach(tcHook(ifindex, direction), tcOptions(0, handle, priority, false)) as number;
  if (answer === -ENOENT || answer === -EINVAL || answer === -ENODEV) return;
  checkLibbpf(`Cannot detach from clsact ${direction} of interface ${ifindex}`, answer);
};

const tcHook = (ifindex: number, direction: TcDirection | "both"): Uint8Array => {
  const points = { ingress: 1, egress: 2, both: 3 } as const;
  const view = new DataView(new ArrayBuffer(24)); // struct bpf_tc_hook {size_t sz; int ifindex; int attach_point; u32 parent}
  view.setBigUint64(0, 24n, true);
  view.setInt32(8, ifindex, true);
  view.setInt32(12, points[direction], true);
  return new Uint8Array(view.buffer);
};

const tcOptions = (program: number, handle: number, priority: number, replace: boolean): Uint8Array => {
  const view = new DataView(new ArrayBuffer(32)); // struct bpf_tc_opts {size_t sz; int prog_fd; u32 flags, prog_id, handle, priority}
  view.setBigUint64(0, 32n, true);
  view.setInt32(8, program, true);
  view.setUint32(12, replace ? 1 : 0, true);
  view.setUint32(20, handle, true);
  view.setUint32(24, priority, true);
  return new Uint8Array(view.buffer);
};
