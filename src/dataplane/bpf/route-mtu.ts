// The MTU that routes state (`ip route … mtu 1400`). The kernel heeds it in what it forwards; bpf_fib_lookup does not tell of
// it, so the programs leave what is larger than the least of them to the kernel.
import { attributesIn, netlinkList, u32In } from "./system/netlink.ts";

/** 0: no route states any. Throws SystemError. */
export const leastRouteMtu = (): number => {
  const header = new Uint8Array(12); // struct rtmsg: of every family and table
  const stated = netlinkList("route", RTM_GETROUTE, header).flatMap(({ body }) => mtuIn(body) ?? []);
  return stated.reduce((least, mtu) => (least === 0 ? mtu : Math.min(least, mtu)), 0);
};

const RTM_GETROUTE = 26;
const RTMSG = 12;
const [RTA_METRICS, RTAX_MTU] = [8, 2];
const LARGEST = 0xffff;

/** Of struct rtmsg and attributes; null: the route states none that a packet could exceed. */
export const mtuIn = (body: Uint8Array): number | null => {
  const metrics = attributesIn(body.subarray(RTMSG)).get(RTA_METRICS);
  const mtu = metrics === undefined ? null : u32In(attributesIn(metrics).get(RTAX_MTU));
  return mtu === null || mtu === 0 || mtu > LARGEST ? null : mtu;
};
