// Network interfaces of this network namespace.
import { bySocket } from "./file.ts";
import { addressOf, libc } from "./libc.ts";

/** Index of an interface of this network namespace, or null. */
export const interfaceIndex = (name: string): number | null => (libc().if_nametoindex(name) as number) || null;

/** Name of an interface of this network namespace, or null. */
export const interfaceName = (index: number): string | null => {
  const name = Buffer.alloc(16); // IF_NAMESIZE
  if (libc().if_indextoname(index, name) === null) return null;
  return name.toString("utf8", 0, name.indexOf(0));
};

const SIOCGIFHWADDR = 0x8927;

/** ARPHRD_* of an interface of this network namespace, or null. */
export const interfaceType = (name: string): number | null => {
  const request = interfaceRequest(SIOCGIFHWADDR, name);
  return request === null ? null : new DataView(request.buffer).getUint16(16, true);
};

/** Six bytes, or null: there is no such interface, or it has no Ethernet address. */
export const interfaceMac = (name: string): Uint8Array | null => {
  const request = interfaceRequest(SIOCGIFHWADDR, name);
  const isEthernet = request !== null && new DataView(request.buffer).getUint16(16, true) === 1;
  return isEthernet ? request.slice(18, 24) : null;
};

/** What drives it (`veth`, `vxlan`), or null: there is none, or it has no name. */
export const interfaceDriver = (name: string): string | null => {
  const [SIOCETHTOOL, ETHTOOL_GDRVINFO] = [0x8946, 3];
  const info = new Uint8Array(196); // struct ethtool_drvinfo {u32 cmd; char driver[32]; …}
  new DataView(info.buffer).setUint32(0, ETHTOOL_GDRVINFO, true);
  if (interfaceRequest(SIOCETHTOOL, name, info) === null) return null;
  const driver = info.subarray(4, 36);
  return new TextDecoder().decode(driver.subarray(0, driver.indexOf(0)));
};

/** struct ifreq after the ioctl; null when it is refused. `data`: what it points to. */
const interfaceRequest = (request: number, name: string, data?: Uint8Array): Uint8Array<ArrayBuffer> | null => {
  const bytes = new Uint8Array(40);
  bytes.set(new TextEncoder().encode(name).subarray(0, 15));
  if (data !== undefined) new DataView(bytes.buffer).setBigUint64(16, addressOf(data), true);
  return bySocket((fd) => ((libc().ioctl(fd, request, bytes) as number) < 0 ? null : bytes));
};
