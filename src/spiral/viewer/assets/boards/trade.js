// Trades: what each player holds, what a piece is worth to it, and the offer that stands.
//
// {kind: "trade", resources: [names], players: [{holdings: [numbers], values: [numbers or null], gain}],
// offer: null or {from, gives: {name: number}, asks: {name: number}}}

import { h } from "../lib/dom.js";
import { signed } from "../lib/format.js";
import { inline } from "../lib/text.js";

export function draw(drawing) {
  const { resources, players, offer = null } = drawing;
  const most = Math.max(1, ...players.flatMap((player) => player.holdings ?? []).filter(Number.isFinite));
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, "Resource"),
    players.map((player, number) =>
      h("th", { scope: "col", class: `p${number % 2}`, colspan: "2" }, `Player ${number}`),
    ),
  );
  const rows = resources.map((name, index) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, inline(name, 20)),
      players.map((player, number) => {
        const pieces = player.holdings?.[index] ?? null;
        const worth = player.values?.[index] ?? null;
        return [
          h(
            "td",
            { class: "num pieces" },
            pieces === null
              ? "?"
              : h("span", { class: `bar p${number % 2}`, style: { "--share": pieces / most } }, String(pieces)),
          ),
          h("td", { class: "num soft small" }, worth === null ? "" : `at ${worth}`),
        ];
      }),
    ),
  );
  const gains = h(
    "tr",
    {},
    h("th", { scope: "row" }, "Gain"),
    players.map((player) =>
      h(
        "td",
        { class: "num", colspan: "2" },
        h("b", {}, player.gain === null || player.gain === undefined ? "–" : signed(player.gain)),
      ),
    ),
  );
  return h(
    "div",
    { class: "stack tight" },
    h(
      "div",
      { class: "scroll" },
      h("table", { class: "trade-board" }, h("thead", {}, head), h("tbody", {}, rows, gains)),
    ),
    offer
      ? h(
          "div",
          { class: "offer" },
          h("span", { class: `p${offer.from % 2}` }, `Player ${offer.from} offers `),
          goods(offer.gives),
          h("span", { class: "soft" }, " for "),
          goods(offer.asks),
        )
      : h("div", { class: "offer soft" }, "No offer stands."),
  );
}

function goods(pieces) {
  const named = Object.entries(pieces ?? {}).filter(([, number]) => number);
  if (!named.length) return h("b", {}, "nothing");
  return h(
    "b",
    {},
    named.flatMap(([name, number], index) => [index ? ", " : "", `${number} `, inline(name, 20)]),
  );
}
