// Programs: what the kernel says of one, running it without a hook, and waiting for those that run.
import { checkLibbpf } from "./errors.ts";
import { libbpf } from "./libbpf.ts";
import { addressOf, libc } from "./libc.ts";
import { objectInfo } from "./object-info.ts";

export interface ProgramInfo {
  readonly id: number;
  /** Instructions the verifier walked through (0 before kernel 5.16). */
  readonly verified_instructions: number;
  /** Bytes after translation. */
  readonly translated_bytes: number;
  readonly jited_bytes: number;
}

export const programInfo = (fd: number): ProgramInfo => {
  const info = new DataView(objectInfo("program", fd, 232).buffer);
  const u32 = (offset: number): number => info.getUint32(offset, true);
  return { id: u32(4), jited_bytes: u32(16), translated_bytes: u32(20), verified_instructions: u32(216) };
};

export interface TestRun {
  readonly retval: number;
  /** The packet after the program. */
  readonly data: Uint8Array;
  /** The context after the program (struct __sk_buff), when one was given. */
  readonly context: Uint8Array;
  /** Mean of one run. */
  readonly duration_ns: number;
}

/** BPF_PROG_TEST_RUN: `data` is a packet from its Ethernet header on, `context` a struct __sk_buff. */
export const testRun = (
  program: number,
  input: { readonly data?: Uint8Array; readonly context?: Uint8Array; readonly repeat?: number },
): TestRun => {
  const data = input.data === undefined ? null : Buffer.from(input.data);
  const out = Buffer.alloc(data === null ? 0 : data.length + 4096);
  const context = input.context === undefined ? null : Buffer.from(input.context);
  const contextOut = Buffer.alloc(context?.length ?? 0);
  const view = new DataView(new ArrayBuffer(80));
  const pointer = (offset: number, buffer: Buffer | null): void =>
    view.setBigUint64(offset, buffer === null || buffer.length === 0 ? 0n : addressOf(buffer), true);
  view.setBigUint64(0, 80n, true); // struct bpf_test_run_opts
  pointer(8, data);
  pointer(16, data === null ? null : out);
  view.setUint32(24, data?.length ?? 0, true);
  view.setUint32(28, out.length, true);
  pointer(32, context);
  pointer(40, contextOut);
  view.setUint32(48, context?.length ?? 0, true);
  view.setUint32(52, contextOut.length, true);
  view.setInt32(60, input.repeat ?? 1, true);
  const options = new Uint8Array(view.buffer);
  checkLibbpf("Cannot test-run a program", libbpf().test_run(program, options) as number);
  return {
    retval: view.getUint32(56, true),
    data: new Uint8Array(out.subarray(0, view.getUint32(28, true))),
    context: new Uint8Array(contextOut),
    duration_ns: view.getUint32(64, true),
  };
};

/** Runs a program of type syscall over `context`, which it may change. Its answer. */
export const runProgram = (program: number, context: Uint8Array): number => {
  const options = new DataView(new ArrayBuffer(80));
  options.setBigUint64(0, 80n, true); // struct bpf_test_run_opts
  options.setBigUint64(32, addressOf(context), true);
  options.setUint32(48, context.length, true);
  checkLibbpf("Cannot run a program", libbpf().test_run(program, new Uint8Array(options.buffer)) as number);
  return options.getUint32(56, true);
};

const SYS_MEMBARRIER: Readonly<Record<string, number>> = { x64: 324, arm64: 283 };

/**
 * Returns after an RCU grace period: every BPF program run that was under way has ended. MEMBARRIER_CMD_GLOBAL is
 * synchronize_rcu() for user space; where it is missing (nohz_full CPUs, seccomp) a pause stands in for it.
 */
export const waitForPrograms = (): void => {
  const [MEMBARRIER_CMD_GLOBAL, PAUSE_MS] = [1, 50];
  const number = SYS_MEMBARRIER[process.arch];
  if (number !== undefined && (libc().syscall(number, MEMBARRIER_CMD_GLOBAL, 0, 0) as number) === 0) return;
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PAUSE_MS);
};
