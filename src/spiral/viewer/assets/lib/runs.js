// What is said of a run wherever it is named.

import { h } from "./dom.js";
import { inline } from "./text.js";

/** "training, step 12 of 300". */
export function runStatus(run) {
  if (run.status === "unreadable") return "cannot be read";
  if (run.step === null || run.step === undefined) return `${run.status}, no step yet`;
  return `${run.status}, step ${run.step}${run.steps ? ` of ${run.steps}` : ""}`;
}

/** The notices of a run and of an answer: what could not be read. */
export function notices(...lists) {
  const texts = [...new Set(lists.flat(3).filter(Boolean))];
  return h(
    "div",
    { class: "notices" },
    texts.map((text) => h("p", { class: "notice", role: "note" }, inline(text, 600))),
  );
}
