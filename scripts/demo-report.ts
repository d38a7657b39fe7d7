// What the demo prints: headings, and one line for each thing that was tried with a mark for as it should be or not.
import type { Answer, Counts } from "../test/lib/host/protocol.ts";

export class Report {
  #wrong = 0;
  readonly #colour = process.stdout.isTTY === true && process.env.NO_COLOR === undefined;

  /** How many lines were not as they should be. */
  get wrong(): number {
    return this.#wrong;
  }

  heading(text: string): void {
    console.log(`\n${this.#paint("1", text)}`);
  }

  note(text: string): void {
    console.log(`  ${text}`);
  }

  line(fine: boolean, what: string, result: string): void {
    if (!fine) this.#wrong++;
    const mark = fine ? this.#paint("32", "✓") : this.#paint("31", "✗ NOT AS IT SHOULD BE:");
    console.log(`  ${mark} ${what.padEnd(38)} ${result}`);
  }

  #paint(code: string, text: string): string {
    return this.#colour ? `\x1b[${code}m${text}\x1b[0m` : text;
  }
}

/** `web-1 ×6 saw 203.0.113.2 · web-2 ×4 saw 192.168.0.1 · ECONNREFUSED ×2` */
export const describeAnswers = (answers: readonly Answer[]): string => {
  const times = new Map<string, number>();
  const said = (a: Answer): readonly [string, string] => (a.ok ? [a.name, `saw ${a.client}`] : [a.code, ""]);
  for (const answer of answers) times.set(said(answer).join("|"), (times.get(said(answer).join("|")) ?? 0) + 1);
  return [...times]
    .sort()
    .map(([key, count]) => {
      const [who, saw] = key.split("|");
      return `${who} ×${count}${saw === "" ? "" : ` ${saw}`}`;
    })
    .join(" · ");
};

export const describeCounts = ({ ok, failed, codes }: Counts): string =>
  `${ok} connections answered, ${failed} failed${failed === 0 ? "" : ` (${list(codes)})`}`;

/** `web-1 ×6, web-2 ×4` */
export const list = (times: Readonly<Record<string, number>>): string =>
  Object.entries(times)
    .sort()
    .map(([name, count]) => `${name} ×${count}`)
    .join(", ");
