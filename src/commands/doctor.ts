// `beeline doctor`: whether this node has what beeline needs, and what makes it slower or less than it could be: what is
// missing, what is detached, what keeps packets from being forwarded directly.
import { readForwarding } from "../dataplane/bpf/inspect.ts";
import type { MapStore } from "../dataplane/bpf/mapstore.ts";
import { linksDirectory, pinDirectory } from "../dataplane/bpf/pins.ts";
import { probeKernel } from "../dataplane/bpf/probe.ts";
import { readXdp, type XdpRecord, xdpDrawback } from "../dataplane/bpf/xdp.ts";
import { obstacleText } from "../dataplane/obstacle.ts";
import { isRefusedError, messageOf } from "../lib/errors.ts";
import { columns } from "../lib/text.ts";
import type { Args, Run } from "./command.ts";
import { obstaclesHere, unfitDevices } from "./obstacles.ts";
import { bpffsOf, cgroupOf, withPinnedMaps } from "./pinned.ts";
import { type Report, show } from "./report.ts";
import { lockHolder, readHooks } from "./status.ts";

export interface Finding {
  readonly check: string;
  /** `bad`: beeline cannot run, or does not serve as it should; `note`: it works, less well than it could, or with a risk. */
  readonly result: "ok" | "note" | "bad";
  readonly detail: string;
}

export const doctor: Run = (args, io) => show(args, io, async () => doctorReport(await examine(args)));

const examine = async (args: Args): Promise<readonly Finding[]> => {
  const [bpffs, cgroup] = [await bpffsOf(args), await cgroupOf(args)];
  const kernel = probeKernel({ bpffs, cgroup }).map(({ feature, ok, needed, detail }): Finding => {
    return { check: feature, result: ok ? "ok" : needed ? "bad" : "note", detail };
  });
  try {
    return [...kernel, ...(await withPinnedMaps(args, examinePinned))];
  } catch (error) {
    if (!isRefusedError(error)) throw error;
    return [
      ...kernel,
      { check: "agent", result: "note", detail: messageOf(error) },
      ...(await examineRules("none", null)),
    ];
  }
};

/** What an agent has left, whether it runs or not. */
const examinePinned = async (store: MapStore, bpffs: string): Promise<readonly Finding[]> => {
  const links = linksDirectory(pinDirectory(bpffs));
  const agent = lockHolder(bpffs);
  const { wanted, mode } = readForwarding(store);
  const lost = readHooks(links).filter(({ attached }) => !attached);
  return [
    agent === null
      ? { check: "agent", result: "note", detail: "not running: what is attached works on, and nothing changes" }
      : { check: "agent", result: "ok", detail: `running, process ${agent}` },
    ...lost.map(
      ({ hook, target }): Finding => ({ check: "hooks", result: "bad", detail: `${hook} of ${target} is detached` }),
    ),
    { check: "forwarding", result: "ok", detail: `${mode} (bpf.forwarding: ${wanted})` },
    ...(await examineRules(wanted, links)),
    ...(wanted === "kernel" ? [] : examineDevices(links)),
    ...examineXdp(readXdp(store, links)),
  ];
};

/** Policies, rules, IPsec: what they mean depends on what the agent was told; `none`: there is no agent. */
const examineRules = async (wanted: keyof typeof MEANING, links: string | null): Promise<readonly Finding[]> => {
  const check = "policies";
  const found = (await obstaclesHere(links)).map(obstacleText);
  if (found.length === 0)
    return [{ check, result: "ok", detail: "nothing on this node may refuse or change what it forwards" }];
  return found.map((text) => ({ check, result: MEANING[wanted].result, detail: `${text}${MEANING[wanted].text}` }));
};

const MEANING = {
  auto: { result: "note", text: " (so packets are left to the kernel)" },
  none: { result: "note", text: " (with bpf.forwarding: auto packets are left to the kernel)" },
  direct: { result: "bad", text: " (and packets of Services pass it by: bpf.forwarding is direct)" },
  kernel: { result: "ok", text: " (packets of Services pass it)" },
} as const;

/** Devices that are not fit, and why. */
const examineDevices = (links: string): readonly Finding[] =>
  unfitDevices(links).map(({ name, why }) => {
    return { check: "devices", result: "note", detail: `${name}: ${why}: what goes by it is left to the kernel` };
  });

/** What XDP is on, what that costs there, and why it is not on another. */
const examineXdp = ({ wanted, devices }: XdpRecord): readonly Finding[] =>
  wanted === "off"
    ? [{ check: "XDP", result: "ok", detail: "off (bpf.xdp)" }]
    : devices.map(({ device, why_not }): Finding => {
        const [check, result] = ["XDP", wanted === "required" ? "bad" : "note"] as const;
        if (why_not !== null) return { check, result, detail: `not on ${device}: ${why_not}` };
        const drawback = xdpDrawback(device);
        if (drawback === null) return { check, result: "ok", detail: `on ${device}` };
        return { check, result: "note", detail: `on ${device}, ${drawback}` };
      });

const doctorReport = (items: readonly Finding[]): Report => ({
  kind: "Diagnosis",
  fields: { items },
  failed: items.some(({ result }) => result === "bad"),
  text: ({ headers, paint }) =>
    columns(
      headers ? ["CHECK", "RESULT", "DETAIL"] : null,
      items.map(({ check, result, detail }) => [check, result, detail]),
    ).replace(
      /^(.*? {2,})(bad|note)(?= {2,})/gm,
      (_line, before: string, result: string) => `${before}${paint(result === "bad" ? "red" : "yellow", result)}`,
    ),
});
