// XDP in a device's driver.
import { checkLibbpf } from "./errors.ts";
import { libbpf, libbpfLog } from "./libbpf.ts";
import { attachType } from "./link.ts";

const XDP_FLAGS_UPDATE_IF_NOEXIST = 1;
/** In the driver: not in the generic hook, which costs more than it saves, nor on the NIC. */
const XDP_FLAGS_DRV_MODE = 4;

/** Attaches by link to a device's native XDP. Answers the link's file descriptor. */
export const xdpLinkCreate = (program: number, ifindex: number): number => {
  const view = new DataView(new ArrayBuffer(32)); // struct bpf_link_create_opts {size_t sz; u32 flags; …}
  view.setBigUint64(0, 32n, true);
  view.setUint32(8, XDP_FLAGS_DRV_MODE, true);
  const answer = libbpf().link_create(program, ifindex, attachType.xdp, new Uint8Array(view.buffer)) as number;
  return checkLibbpf("Cannot attach xdp", answer);
};

/**
 * What the driver, or the kernel, says when it is asked for native XDP and refuses: a link is told an errno alone, and
 * netlink a sentence. null: it said nothing, or does not refuse any more (nothing is attached then either).
 */
export const xdpRefusal = (program: number, ifindex: number): string | null => {
  const l = libbpf();
  libbpfLog.forget();
  const answer = l.xdp_attach(ifindex, program, XDP_FLAGS_DRV_MODE | XDP_FLAGS_UPDATE_IF_NOEXIST, null) as number;
  if (answer === 0) {
    checkLibbpf("Cannot detach xdp", l.xdp_detach(ifindex, XDP_FLAGS_DRV_MODE, null) as number);
    return null;
  }
  return /Kernel error message: (.+)/.exec(libbpfLog.text())?.[1]?.trim() ?? null;
};

/** Programs on a device: in the driver, in the generic hook, on the NIC; 0: none. */
export interface XdpPrograms {
  readonly native: number;
  readonly generic: number;
  readonly offloaded: number;
}

export const xdpPrograms = (ifindex: number): XdpPrograms => {
  const view = new DataView(new ArrayBuffer(32)); // struct bpf_xdp_query_opts {size_t sz; u32 prog_id, drv, hw, skb; u8 mode}
  view.setBigUint64(0, 32n, true);
  checkLibbpf(
    "Cannot ask for a device's XDP programs",
    libbpf().xdp_query(ifindex, 0, new Uint8Array(view.buffer)) as number,
  );
  const u32 = (offset: number): number => view.getUint32(offset, true);
  return { native: u32(12), offloaded: u32(16), generic: u32(20) };
};
