// Boards of cells: tic-tac-toe of any size, Connect Four.
//
// {kind: "grid", rows, columns, cells: ["", "X", "O", ...], last: index or null, numbers, drops}
//
// An action is the number of a cell, or with `drops` the number of a column, in which a disc falls.

import { h, svg } from "../lib/dom.js";
import { signed } from "../lib/format.js";
import { inline, plain } from "../lib/text.js";

const PLAYERS = { X: 0, O: 1 };
const MAX_CELLS = 3600;

export function draw(drawing, { text = "", legal = null, played = null, values = null, best = [], play = null }) {
  const { rows, columns, cells, last = null, numbers = false, drops = false } = drawing;
  if (!(rows > 0 && columns > 0) || cells.length !== rows * columns || cells.length > MAX_CELLS)
    throw new Error("The cells of the board do not fit its rows and columns.");
  const style = drops ? "discs" : "marks";
  const actions = cells.map((cell, index) => String(drops ? index % columns : index));
  const shown = landing(drawing, actions, legal);
  const board = h("div", {
    class: `grid-board ${style} ${columns > 5 ? "many" : ""}`,
    style: { "--columns": columns, "--rows": rows },
    role: play ? "group" : "img",
    "aria-label": spoken(drawing, text),
  });
  cells.forEach((cell, index) => {
    const action = actions[index];
    const open = (legal ?? []).includes(action);
    const target = shown.has(index); // one cell of those that an action names: where the disc falls
    const classes = ["cell"];
    if (cell) classes.push(`p${PLAYERS[cell] ?? 0}`);
    if (index === last) classes.push("last");
    if (target && action === played) classes.push("played");
    if (target && best.includes(action)) classes.push("best");
    const content = [];
    if (cell) content.push(style === "discs" ? disc() : mark(cell));
    else if (target && values && action in values)
      content.push(h("span", { class: "cell-value num" }, signed(values[action])));
    else if (numbers) content.push(h("span", { class: "cell-number num" }, action));
    if (play && open && !cell) {
      board.append(
        h(
          "button",
          {
            type: "button",
            class: classes.join(" "),
            "data-action": action,
            "aria-label": `Play ${action}`,
            tabindex: target || style !== "discs" ? null : "-1",
            onclick: () => play(action),
          },
          content,
        ),
      );
    } else board.append(h("div", { class: classes.join(" "), "data-action": cell ? null : action }, content));
  });
  return board;
}

/** The cells where actions land: in a column the lowest empty one, elsewhere each empty cell. */
function landing(drawing, actions, legal) {
  const lowest = new Map();
  actions.forEach((action, index) => {
    if (!drawing.cells[index]) lowest.set(action, index);
  });
  return new Set([...lowest].filter(([action]) => legal === null || legal.includes(action)).map(([, index]) => index));
}

function mark(cell) {
  const name = cell === "X" ? "cross" : cell === "O" ? "circle" : null;
  if (!name) return h("span", { class: "cell-text" }, inline(cell, 3));
  const shape =
    name === "cross" ? svg("path", { d: "M25 25 75 75M75 25 25 75" }) : svg("circle", { cx: 50, cy: 50, r: 27 });
  return svg("svg", { viewBox: "0 0 100 100", class: name, "aria-hidden": "true" }, shape);
}

function disc() {
  return svg(
    "svg",
    { viewBox: "0 0 100 100", class: "disc", "aria-hidden": "true" },
    svg("circle", { cx: 50, cy: 50, r: 40 }),
  );
}

/** The rows as words: "row 1: X, empty, O". */
function spoken({ rows, columns, cells }, text) {
  if (cells.length > 64) return plain(text, 500);
  const lines = [];
  for (let row = 0; row < rows; row += 1)
    lines.push(
      `row ${row + 1}: ${cells
        .slice(row * columns, (row + 1) * columns)
        .map((cell) => cell || "empty")
        .join(", ")}`,
    );
  return lines.join("; ");
}
