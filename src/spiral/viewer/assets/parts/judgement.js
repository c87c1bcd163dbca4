// What theory says of every move of a small game, as bars.

import { h } from "../lib/dom.js";
import { signed } from "../lib/format.js";
import { inline } from "../lib/text.js";

const METHODS = {
  minimax: "What each move is worth to the player under best play (minimax).",
  equilibrium: "What each move is worth to the player against an equilibrium.",
};
const EPSILON = 1e-6;

export function isMistake(judgement) {
  return Boolean(judgement) && judgement.regret > EPSILON;
}

/** The bars of a turn's judgement. */
export function judgement(judged, action) {
  const entries = Object.entries(judged.values);
  const size = Math.max(EPSILON, ...entries.map(([, value]) => Math.abs(value)));
  const verdict =
    action === null || action === undefined
      ? h("span", { class: "tag bad" }, "no legal move")
      : isMistake(judged)
        ? h("span", { class: "tag bad" }, `loses ${signed(judged.regret).slice(1)}`)
        : h("span", { class: "tag good" }, "best");
  return h(
    "section",
    { class: "panel pad judgement" },
    h("div", { class: "row spread" }, h("h3", {}, "Judgement of the moves"), verdict),
    h(
      "p",
      { class: "soft small" },
      METHODS[judged.method] ?? judged.method,
      judged.hand ? " In chips of this hand." : "",
    ),
    h(
      "ul",
      { class: "value-bars num" },
      entries.map(([move, value]) =>
        h(
          "li",
          { class: `${move === action ? "is-played" : ""} ${judged.best.includes(move) ? "is-best" : ""}` },
          h("span", { class: "move" }, inline(move, 30)),
          h(
            "span",
            { class: "value-bar", "aria-hidden": "true" },
            h("i", { class: value < 0 ? "negative" : "positive", style: { "--share": Math.abs(value) / size } }),
          ),
          h("span", { class: "value" }, signed(value)),
          h(
            "span",
            { class: "flags small" },
            judged.best.includes(move) ? "best " : "",
            move === action ? "played" : "",
          ),
        ),
      ),
    ),
  );
}
