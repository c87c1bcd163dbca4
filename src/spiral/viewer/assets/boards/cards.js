// Card games with chips: Kuhn and Leduc poker.
//
// {kind: "cards", players: [{card: "J" or null, chips_put, to_act}], public: card or null, pot, history: [actions]}

import { h } from "../lib/dom.js";
import { signed } from "../lib/format.js";
import { inline } from "../lib/text.js";

const MAX_CHIPS = 12;

export function draw(drawing, { legal = null, play = null, played = null, values = null, best = [] }) {
  const { players, pot, history = [] } = drawing;
  const table = h("div", { class: "cards-board", role: play ? "group" : "img", "aria-label": spoken(drawing) });
  players.forEach((player, number) => {
    table.append(
      h(
        "div",
        { class: `hand p${number % 2} ${player.to_act ? "acting" : ""}` },
        h(
          "div",
          { class: "hand-name" },
          h("span", {}, `Player ${number}`),
          player.to_act ? h("span", { class: "tag accent" }, "to act") : null,
        ),
        card(player.card),
        chips(player.chips_put),
        drawing.hands > 1 ? h("span", { class: "small num" }, `${signed(drawing.chips[number])} so far`) : null,
      ),
    );
  });
  const middle = h(
    "div",
    { class: "pot" },
    "public" in drawing && drawing.public ? card(drawing.public) : null,
    h("div", { class: "pot-chips num" }, h("span", { class: "soft small" }, "pot"), h("b", {}, String(pot))),
  );
  table.insertBefore(middle, table.children[1] ?? null);
  const parts = [table];
  if (history.length)
    parts.push(
      h(
        "p",
        { class: "history small" },
        history.flatMap((action, index) => [index ? h("span", { class: "soft" }, " → ") : "", inline(action, 40)]),
      ),
    );
  if (play && legal?.length) {
    parts.push(
      h(
        "div",
        { class: "row actions" },
        legal.map((action) =>
          h(
            "button",
            { type: "button", class: "button", "data-action": action, onclick: () => play(action) },
            inline(action, 40),
          ),
        ),
      ),
    );
  }
  return h("div", { class: "stack tight" }, parts);
}

function card(name) {
  if (!name) return h("div", { class: "card back" });
  const text = String(name).slice(0, 3);
  return h(
    "div",
    { class: "card face" },
    h("span", { class: "card-corner" }, text),
    h("span", { class: "card-name" }, text),
  );
}

function chips(number) {
  const drawn = Math.min(MAX_CHIPS, Math.max(0, Math.round(number)));
  return h(
    "div",
    { class: "chips num" },
    h(
      "span",
      { class: "chip-stack", "aria-hidden": "true" },
      Array.from({ length: drawn }, () => h("i", {})),
    ),
    h("span", { class: "small" }, `${number} in`),
  );
}

function spoken({ players, pot, public: open }) {
  const hands = players.map(
    (player, number) => `player ${number} has ${player.card ?? "a hidden card"} and put in ${player.chips_put}`,
  );
  return `${hands.join("; ")}${open ? `; the public card is ${open}` : ""}; the pot is ${pot}`;
}
