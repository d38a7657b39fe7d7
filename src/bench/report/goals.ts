// What beeline is to reach, and whether this run did: a table, missed goals marked.
import { GOAL_HEADS, goalRow, goalsAnswer, judge } from "../goals.ts";
import type { Result } from "../result.ts";
import { type Markup, markup, NOTHING } from "./markup.ts";

export const goalsSection = (result: Result): Markup => {
  const all = judge(result);
  if (all.judged.length === 0) return NOTHING;
  const rows = all.judged.map((one) => {
    const [what = "", own = "", than = "", goal = "", measured = "", met = ""] = goalRow(result, one);
    const verdict = one.met ? markup`${met}` : markup`<b class="bad">${met}</b>`;
    return markup`<tr><th scope="row"><a href="#${`metric-${one.metric.name}`}">${what}</a></th><td>${own}</td><td>${than}</td><td class="figures">${goal}</td><td class="figures">${measured}</td><td>${verdict}</td></tr>`;
  });
  return markup`<section id="goals"><h2>Goals</h2><p class="answer">${goalsAnswer(all)}</p><p class="note">Medians of ratios taken round by round, with the least and the greatest; a goal is met by the median.</p><div class="wide-table"><table class="proofs"><thead><tr>${GOAL_HEADS.map((head) => markup`<th scope="col">${head}</th>`)}</tr></thead><tbody>${rows}</tbody></table></div></section>`;
};
