// How a process gets into a network namespace and a cgroup before its program starts.

/** Where a process is put before its program starts. */
export interface Inside {
  readonly netns: string;
  readonly cgroup: string;
}

/** argv that joins the cgroup and the namespace, and dies when the test does; execs all the way, so the pid stays. */
export const inside = (where: Inside, argv: readonly string[]): readonly [string, readonly string[]] => [
  "sh",
  [
    "-c",
    'echo $$ >"$1/cgroup.procs" && shift && exec nsenter --net="$@"',
    "sh",
    where.cgroup,
    where.netns,
    "setpriv",
    "--pdeathsig=KILL",
    ...argv,
  ],
];
