// The tables of iptables-legacy, asked without its program.
import { checkLibc } from "./errors.ts";
import { bySocket } from "./file.ts";
import { libc } from "./libc.ts";

/**
 * What an x_tables table says of itself (struct ipt_getinfo: where its chains begin, how many rules, how many bytes). It must
 * be there: asked for another one, the kernel makes it.
 */
export const legacyTableInfo = (family: "IPv4" | "IPv6", table: string): Uint8Array =>
  bySocket((fd) => {
    const [SOL_IP, SOL_IPV6, IPT_SO_GET_INFO] = [0, 41, 64];
    const info = new Uint8Array(84);
    info.set(new TextEncoder().encode(table).subarray(0, 31));
    const length = new Uint32Array([info.length]);
    const level = family === "IPv4" ? SOL_IP : SOL_IPV6;
    const answer = libc().getsockopt(fd, level, IPT_SO_GET_INFO, info, length) as number;
    checkLibc(`Cannot look at ${family} table ${table}`, answer);
    return info;
  }, family);
