// Netlink: asking the kernel, one answer or a whole list, and hearing what changes. What the messages mean is elsewhere
// (netns.ts, links.ts, route-events.ts, …).
import { checkLibc, EAGAIN, SystemError } from "./errors.ts";
import { closeFd } from "./file.ts";
import { errno, libc } from "./libc.ts";

/** One message without its struct nlmsghdr. */
export interface Message {
  readonly type: number;
  readonly body: Uint8Array;
}

const protocols = { route: 0, sock_diag: 4, xfrm: 6, netfilter: 12 } as const;

const ENOBUFS = 105;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const [NLM_F_REQUEST, NLM_F_DUMP] = [1, 0x300];
const HEADER = 16; // struct nlmsghdr {u32 length; u16 type, flags; u32 sequence, pid}

// ---- asking --------------------------------------------------------------------------------------------------------

/** A socket to ask this network namespace by. The caller closes it. */
export const openNetlink = (protocol: keyof typeof protocols): number => {
  const [AF_NETLINK, SOCK_RAW_CLOEXEC] = [16, 3 | 0o2000000];
  return checkLibc(`Cannot open netlink ${protocol}`, libc().socket(AF_NETLINK, SOCK_RAW_CLOEXEC, protocols[protocol]));
};

/** Sends one request that asks to be acknowledged, header and all; answers 0, or the kernel's errno. */
export const netlinkRequest = (fd: number, request: Uint8Array): number => errnoIn(exchange(fd, request));

/** Sends one request; the one message that answers it, header and all. Throws SystemError when it is refused. */
export const netlinkAsk = (fd: number, request: Uint8Array): Uint8Array => {
  const answer = exchange(fd, request);
  if (typeIn(answer) === NLMSG_ERROR) throw new SystemError("Cannot ask by netlink", errnoIn(answer));
  return answer;
};

/** Everything of a kind: RTM_GETLINK and its like, with the fixed header that the kind has. Throws SystemError. */
export const netlinkList = (protocol: keyof typeof protocols, type: number, header: Uint8Array): readonly Message[] => {
  const fd = openNetlink(protocol);
  try {
    send(fd, request(type, NLM_F_REQUEST | NLM_F_DUMP, header));
    const found: Message[] = [];
    for (;;) {
      for (const message of messagesIn(receive(fd))) {
        if (message.type === NLMSG_DONE) return found;
        if (message.type === NLMSG_ERROR) throw new SystemError("Cannot list by netlink", errnoOf(message.body));
        found.push(message);
      }
    }
  } finally {
    closeFd(fd);
  }
};

/** One question with one answer. Throws SystemError when it is refused. */
export const netlinkTell = (protocol: keyof typeof protocols, type: number, body: Uint8Array): readonly Message[] => {
  const fd = openNetlink(protocol);
  try {
    send(fd, request(type, NLM_F_REQUEST, body));
    const answer = [...messagesIn(receive(fd))];
    const refusal = answer.find((message) => message.type === NLMSG_ERROR);
    const errno = refusal === undefined ? 0 : errnoOf(refusal.body);
    if (errno !== 0) throw new SystemError("Cannot ask by netlink", errno);
    return answer;
  } finally {
    closeFd(fd);
  }
};

const request = (type: number, flags: number, body: Uint8Array): Uint8Array => {
  const bytes = new Uint8Array(HEADER + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint16(4, type, true);
  view.setUint16(6, flags, true);
  bytes.set(body, HEADER);
  return bytes;
};

const exchange = (fd: number, bytes: Uint8Array): Uint8Array => {
  send(fd, bytes);
  return receive(fd);
};

const send = (fd: number, bytes: Uint8Array): void =>
  void checkLibc("Cannot ask by netlink", Number(libc().send(fd, bytes, bytes.length, 0)));

/** More than the kernel puts into one answer of a list (32 KiB), or a device with all of its attributes has. */
const LONGEST = 65_536;
/** Made once: so much new memory costs more than the question (150 µs, of 156). */
const room = new Uint8Array(LONGEST);

const receive = (fd: number): Uint8Array => {
  const length = checkLibc("Cannot read netlink's answer", Number(libc().recv(fd, room, room.length, 0)));
  return room.slice(0, length);
};

const typeIn = (answer: Uint8Array): number => viewOf(answer).getUint16(4, true);

/** struct nlmsgerr, behind struct nlmsghdr. */
const errnoIn = (answer: Uint8Array): number => errnoOf(answer.subarray(HEADER));
const errnoOf = (body: Uint8Array): number => -viewOf(body).getInt32(0, true);

// ---- hearing -------------------------------------------------------------------------------------------------------

export interface Heard {
  close(): void;
}

/**
 * Calls `heard` with what the kernel announces to these groups from now on, everything that there is to read at once;
 * `null`: it announced more than there was room for, and some of it is lost. Costs nothing while nothing happens: the kernel sends the process a signal,
 * SIGIO, when there is something to read, and Node calls us from its loop.
 */
export const hearNetlink = (
  protocol: keyof typeof protocols,
  groups: readonly number[],
  heard: (messages: readonly Message[] | null) => void,
): Heard => {
  const fd = openNetlink(protocol);
  const buffer = new Uint8Array(LONGEST);
  const drain = (): void => {
    let messages: Message[] | null = [];
    for (;;) {
      const length = Number(libc().recv(fd, buffer, buffer.length, MSG_DONTWAIT));
      const refusal = length < 0 ? errno() : 0;
      if (refusal === EAGAIN) break;
      if (refusal !== 0 && refusal !== ENOBUFS) throw new SystemError("Cannot hear what netlink announces", refusal);
      if (refusal === ENOBUFS) messages = null;
      else messages?.push(...messagesIn(buffer.slice(0, length)));
    }
    if (messages === null || messages.length > 0) heard(messages);
  };
  try {
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, ROOM_BYTES);
    bindAnyPort(fd);
    for (const group of groups) setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group);
    process.on("SIGIO", drain);
    askForSignal(fd);
  } catch (error) {
    process.off("SIGIO", drain);
    closeFd(fd);
    throw error;
  }
  return {
    close() {
      process.off("SIGIO", drain);
      closeFd(fd);
    },
  };
};

const MSG_DONTWAIT = 0x40;
const [SOL_SOCKET, SO_RCVBUFFORCE] = [1, 33];
const [SOL_NETLINK, NETLINK_ADD_MEMBERSHIP] = [270, 1];
/** A thousand pods that come at once, with their routes and neighbours. */
const ROOM_BYTES = 4 << 20;

const setsockopt = (fd: number, level: number, name: number, value: number): void =>
  void checkLibc("Cannot listen to netlink", libc().setsockopt(fd, level, name, new Uint32Array([value]), 4));

const bindAnyPort = (fd: number): void => {
  const address = new Uint8Array(12); // struct sockaddr_nl {u16 family, pad; u32 pid, groups}
  new DataView(address.buffer).setUint16(0, 16 /* AF_NETLINK */, true);
  checkLibc("Cannot listen to netlink", libc().bind(fd, address, address.length));
};

const askForSignal = (fd: number): void => {
  const [F_SETFL, F_SETOWN, O_NONBLOCK, O_ASYNC] = [4, 8, 0o4000, 0o20000];
  checkLibc("Cannot be told of netlink's messages", libc().fcntl(fd, F_SETOWN, process.pid));
  checkLibc("Cannot be told of netlink's messages", libc().fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC));
};

// ---- bytes ---------------------------------------------------------------------------------------------------------

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** One after another, each padded to 4 bytes; what is cut short ends them. */
export const messagesIn = function* (bytes: Uint8Array): Generator<Message> {
  const view = viewOf(bytes);
  for (let at = 0; at + HEADER <= view.byteLength; ) {
    const length = view.getUint32(at, true);
    if (length < HEADER || at + length > view.byteLength) return;
    yield { type: view.getUint16(at + 4, true), body: bytes.subarray(at + HEADER, at + length) };
    at += (length + 3) & ~3;
  }
};

/** Of a row of struct nlattr, each padded to 4 bytes; a nested one is a row itself. The last of a name counts. */
export const attributesIn = (bytes: Uint8Array): ReadonlyMap<number, Uint8Array> => {
  const NLA_TYPE_MASK = 0x3fff; // the other bits say nested, or byte order
  const view = viewOf(bytes);
  const found = new Map<number, Uint8Array>();
  for (let at = 0; at + 4 <= view.byteLength; ) {
    const length = view.getUint16(at, true);
    if (length < 4 || at + length > view.byteLength) break;
    found.set(view.getUint16(at + 2, true) & NLA_TYPE_MASK, bytes.subarray(at + 4, at + length));
    at += (length + 3) & ~3;
  }
  return found;
};

export const u32In = (attribute: Uint8Array | undefined): number | null =>
  attribute === undefined || attribute.length < 4 ? null : viewOf(attribute).getUint32(0, true);

/** A C string. */
export const textIn = (attribute: Uint8Array | undefined): string | null => {
  if (attribute === undefined) return null;
  const end = attribute.indexOf(0);
  return new TextDecoder().decode(end < 0 ? attribute : attribute.subarray(0, end));
};
