// Draws a position. The drawing of a game names its kind, and the module of that name in boards/ draws it; a game of your
// own brings one more module. A position without a drawing is text.

import { h, put } from "../lib/dom.js";
import { block } from "../lib/text.js";

const loaded = new Map();

function moduleOf(kind) {
  if (!/^[a-z][a-z_]*$/.test(kind ?? "")) return Promise.resolve(null);
  if (!loaded.has(kind))
    loaded.set(
      kind,
      import(`../boards/${kind}.js`).catch(() => null),
    );
  return loaded.get(kind);
}

/**
 * Draw a position into `box`.
 *
 * Options: `text`, the position in words; `legal`, the legal actions; `played`, the action taken from here; `values`,
 * {action: value}; `best`, the best actions; `play(action)`, called when an action is clicked.
 */
export async function drawBoard(box, drawing, options = {}) {
  const serial = (box.serial = (box.serial ?? 0) + 1);
  const module = drawing && drawing.kind !== "text" ? await moduleOf(drawing.kind) : null;
  if (serial !== box.serial) return;
  if (module) {
    try {
      put(box, module.draw(drawing, options));
      return;
    } catch (error) {
      console.error(error); // a drawing that the module does not understand is shown as text
    }
  }
  put(box, h("div", { class: "board-text" }, block(options.text, { empty: "The position has no text." })));
}
