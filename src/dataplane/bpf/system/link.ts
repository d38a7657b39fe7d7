// Links: programs attached to a cgroup, a device (tcx) or a map, and who is attached there.
import { checkLibbpf } from "./errors.ts";
import { libbpf } from "./libbpf.ts";
import { addressOf } from "./libc.ts";
import { objectInfo } from "./object-info.ts";

/** enum bpf_attach_type, the ones in use. */
export const attachType = {
  cgroup_inet_sock_release: 34,
  cgroup_inet4_connect: 10,
  cgroup_inet6_connect: 11,
  cgroup_udp4_sendmsg: 14,
  cgroup_udp6_sendmsg: 15,
  cgroup_udp4_recvmsg: 19,
  cgroup_udp6_recvmsg: 20,
  cgroup_inet4_getpeername: 29,
  cgroup_inet6_getpeername: 30,
  trace_iter: 28,
  xdp: 37,
  tcx_ingress: 46,
  tcx_egress: 47,
} as const;

export type AttachType = keyof typeof attachType;

/** Attaches by link; `target` is a cgroup's file descriptor or, for tcx, an interface index. Answers the link's. */
export const linkCreate = (program: number, target: number, type: AttachType): number =>
  checkLibbpf(`Cannot attach ${type}`, libbpf().link_create(program, target, attachType[type], null) as number);

/** Swaps the program of a link; no packet sees a moment without one. */
export const linkUpdate = (link: number, program: number): void =>
  void checkLibbpf("Cannot replace the program of a link", libbpf().link_update(link, program, null) as number);

export const linkDetach = (link: number): void =>
  void checkLibbpf("Cannot detach a link", libbpf().link_detach(link) as number);

/** First bytes of struct bpf_link_info: type and id of the link, id of its program. */
export const linkInfo = (
  fd: number,
): { readonly type: number; readonly id: number; readonly program_id: number; readonly target: number } => {
  const info = new DataView(objectInfo("link", fd, 32).buffer);
  const u32 = (offset: number): number => info.getUint32(offset, true);
  return { type: u32(0), id: u32(4), program_id: u32(8), target: u32(16) };
};

/** A link of an iterator program to the map that it walks. */
export const linkIterator = (program: number, map: number): number => {
  const info = new Uint32Array([map]); // union bpf_iter_link_info
  const view = new DataView(new ArrayBuffer(32)); // struct bpf_link_create_opts {size_t sz; u32 flags; info *, u32 length; …}
  view.setBigUint64(0, 32n, true);
  view.setBigUint64(16, addressOf(info), true);
  view.setUint32(24, info.byteLength, true);
  const answer = libbpf().link_create(program, 0, attachType.trace_iter, new Uint8Array(view.buffer)) as number;
  return checkLibbpf("Cannot attach an iterator", answer);
};

/** One walk of an iterator: a file to be read to its end. The caller closes it. */
export const iterCreate = (link: number): number =>
  checkLibbpf("Cannot start an iterator", libbpf().iter_create(link) as number);

/** Programs attached to a cgroup or (tcx) interface, and the flags of the attachment: 0 is exclusive. */
export const queryPrograms = (
  target: number,
  type: AttachType,
): { readonly flags: number; readonly program_ids: readonly number[] } => {
  const flags = new Uint32Array(1);
  const ids = new Uint32Array(64);
  const count = new Uint32Array([ids.length]);
  const answer = libbpf().prog_query(target, attachType[type], 0, flags, ids, count) as number;
  checkLibbpf(`Cannot query ${type} programs`, answer);
  return { flags: flags[0] ?? 0, program_ids: [...ids.subarray(0, count[0] ?? 0)] };
};
