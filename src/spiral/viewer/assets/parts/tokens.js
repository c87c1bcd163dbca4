// The tokens of a reply, coloured by what was recorded of each.

import { h } from "../lib/dom.js";
import { count, signed, value } from "../lib/format.js";
import { block, shown } from "../lib/text.js";

const FIRST_TOKENS = 3000;
const MORE_TOKENS = 20_000;
const TABLE_TOKENS = 400;
const SURPRISE_NATS = 4; // log-probability at which the colour is full
const GAP_NATS = 0.5;

/** How tokens can be coloured. `of` gives [class, strength 0 to 1] or null where the number is not known. */
export const TINTS = {
  plain: { name: "Plain", legend: null, has: () => true, of: () => null },
  probability: {
    name: "Probability",
    has: (token) => token.logprob !== null && token.logprob !== undefined,
    scale: () => 1,
    of: (token) => ["hot", Math.min(1, -token.logprob / SURPRISE_NATS)],
    legend: () => ({
      parts: [
        ["hot", 0],
        ["hot", 0.25],
        ["hot", 0.5],
        ["hot", 0.75],
        ["hot", 1],
      ],
      low: "certain",
      high: `${value(-SURPRISE_NATS)} nats or less`,
      what: "Log-probability when it was sampled.",
    }),
  },
  gap: {
    name: "Gap",
    has: (token) => token.gap !== null && token.gap !== undefined,
    scale: () => GAP_NATS,
    of: (token) => [token.gap >= 0 ? "positive" : "negative", Math.min(1, Math.abs(token.gap) / GAP_NATS)],
    legend: () => ({
      parts: DIVERGING,
      low: `${value(-GAP_NATS)} nats`,
      high: `+${GAP_NATS}`,
      what: "The engine's log-probability minus the learner's.",
    }),
  },
  advantage: {
    name: "Advantage",
    has: (token) => token.advantage !== null && token.advantage !== undefined,
    scale: (tokens) => Math.max(1e-9, ...tokens.slice(0, 100_000).map((token) => Math.abs(token.advantage ?? 0))),
    of: (token, scale) => [
      token.advantage >= 0 ? "positive" : "negative",
      Math.min(1, Math.abs(token.advantage) / scale),
    ],
    legend: (scale) => ({
      parts: DIVERGING,
      low: signed(-scale),
      high: signed(scale),
      what: "Which way learning pushes the token.",
    }),
  },
};
const DIVERGING = [
  ["negative", 1],
  ["negative", 0.5],
  ["positive", 0],
  ["positive", 0.5],
  ["positive", 1],
];

/** The legend of a colouring, or what is missing for it. */
export function legend(tint, tokens) {
  const { legend: make, has, scale } = TINTS[tint];
  if (!make) return null;
  if (!tokens.some(has))
    return h(
      "p",
      { class: "soft small" },
      tint === "probability"
        ? "This player's tokens were not recorded."
        : `This run did not record the ${tint} of tokens.`,
    );
  const { parts, low, high, what } = make(scale(tokens));
  return h(
    "p",
    { class: "tint-legend small soft" },
    h("span", {}, low),
    h(
      "span",
      { class: "ramp", "aria-hidden": "true" },
      parts.map(([kind, strength]) => h("i", { class: `tint ${kind}`, style: { "--strength": strength } })),
    ),
    h("span", {}, high),
    h("span", {}, what),
  );
}

/** A part of a reply: its text, or its tokens in colour. */
export function reply(text, tokens, tint, empty) {
  const { has, of, scale } = TINTS[tint];
  if (!tokens?.length || tint === "plain" || !tokens.some(has)) return block(text, { empty });
  const size = scale(tokens);
  const pre = h("pre", { class: "text tokens" });
  const box = h("div", {}, pre);
  let from = 0;
  const add = (number) => {
    const bdi = h("bdi", {});
    for (const token of tokens.slice(from, from + number)) {
      const colour = has(token) ? of(token, size) : null;
      const span = h("span", { class: `tint ${colour?.[0] ?? "unknown"}`, title: spoken(token) });
      if (colour) span.style.setProperty("--strength", colour[1].toFixed(3));
      span.append(shown(token.text));
      bdi.append(span);
    }
    from += number;
    pre.append(bdi);
  };
  add(FIRST_TOKENS);
  if (from < tokens.length) {
    const button = h("button", { type: "button", class: "button more" });
    const name = () => {
      button.textContent = `Show ${count(Math.min(MORE_TOKENS, tokens.length - from))} of ${count(tokens.length - from)} more tokens`;
    };
    button.addEventListener("click", () => {
      add(MORE_TOKENS);
      if (from < tokens.length) name();
      else button.remove();
    });
    name();
    box.append(button);
  }
  return box;
}

function spoken(token) {
  const parts = [];
  if (TINTS.probability.has(token))
    parts.push(`log-probability ${value(token.logprob)} (${(100 * Math.exp(token.logprob)).toPrecision(3)}%)`);
  if (TINTS.gap.has(token)) parts.push(`gap ${value(token.gap)}`);
  if (TINTS.advantage.has(token)) parts.push(`advantage ${signed(token.advantage, 3)}`);
  return parts.join(", ") || "not recorded";
}

/** The numbers of the tokens as a table. */
export function tokenTable(tokens) {
  const cell = (number, format) =>
    h("td", { class: "num" }, number === null || number === undefined ? "–" : format(number));
  const rows = tokens.slice(0, TABLE_TOKENS).map((token, index) =>
    h(
      "tr",
      {},
      h("td", { class: "num soft" }, String(index)),
      h("td", {}, h("bdi", { class: "mono" }, shown(token.text.slice(0, 80)))),
      h("td", { class: "soft" }, token.part ?? ""),
      cell(token.logprob, value),
      cell(token.gap, value),
      cell(token.advantage, (number) => signed(number, 3)),
    ),
  );
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Numbers of the tokens" },
    h(
      "table",
      { class: "num" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["#", "Token", "Part", "Log-probability", "Gap", "Advantage"].map((name, index) =>
            h("th", { scope: "col", class: index > 2 || !index ? "num" : "" }, name),
          ),
        ),
      ),
      h("tbody", {}, rows),
    ),
    tokens.length > TABLE_TOKENS
      ? h(
          "p",
          { class: "soft small pad" },
          `The first ${TABLE_TOKENS} of ${count(tokens.length)} tokens; the download has all.`,
        )
      : null,
  );
}
