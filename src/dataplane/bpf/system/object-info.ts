// What the kernel says of a map, a program or a link: the bytes. Which of them mean what: map.ts, program.ts, link.ts.
import { checkLibbpf } from "./errors.ts";
import { libbpf } from "./libbpf.ts";

/** The first `size` bytes of its struct bpf_*_info. */
export const objectInfo = (what: string, fd: number, size: number): Uint8Array => {
  const info = new Uint8Array(size);
  const length = new Uint32Array([size]);
  checkLibbpf(`Cannot read the ${what} info of file descriptor ${fd}`, libbpf().info_by_fd(fd, info, length) as number);
  return info;
};
