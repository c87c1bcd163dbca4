// Text from models, games and files, made safe to look at.
//
// What acts on the text around it, or cannot be seen, becomes a mark: control characters, ANSI codes, bidirectional
// controls, zero-width characters, halves of surrogate pairs, heaps of combining marks. The rules are those of
// `spiral.core.printable`.

import { h } from "./dom.js";
import { count } from "./format.js";

const FIRST_CHARACTERS = 12_000;
const PART_CHARACTERS = 12_000; // parts that are out of sight are not laid out
const MORE_CHARACTERS = 100_000; // at once, so that the page stays alive

const PLAIN = /^[\t\n -~]*$/;
const ACTING = new RegExp(
  "\\u001b\\[[0-?]*[ -/]*[@-~]" + // an ANSI code
    "|[\\p{Cc}\\p{Cf}\\p{Cs}\\p{Zl}\\p{Zp}\\u034f\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180d\\u180f\\u2800\\u3164\\uffa0\\u{e0100}-\\u{e01ef}]" +
    "|(?<=[\\p{Mn}\\p{Me}]{4})[\\p{Mn}\\p{Me}]+", // more than four marks on one letter
  "gu",
);
const NAMES = {
  0x00: "NUL",
  0x07: "BEL",
  0x08: "BS",
  0x0d: "CR",
  0x1b: "ESC",
  0x7f: "DEL",
  0xad: "SHY",
  0x200b: "ZWSP",
  0x200c: "ZWNJ",
  0x200d: "ZWJ",
  0x200e: "LRM",
  0x200f: "RLM",
  0x202a: "LRE",
  0x202b: "RLE",
  0x202c: "PDF",
  0x202d: "LRO",
  0x202e: "RLO",
  0x2060: "WJ",
  0x2066: "LRI",
  0x2067: "RLI",
  0x2068: "FSI",
  0x2069: "PDI",
  0x2028: "LS",
  0x2029: "PS",
  0xfeff: "BOM",
};

/** Return a fragment with the text, its acting and invisible characters as marks. */
export function shown(text) {
  const fragment = document.createDocumentFragment();
  text = text.replaceAll("\r\n", "\n");
  if (PLAIN.test(text)) {
    fragment.append(text);
    return fragment;
  }
  let from = 0;
  let last = null; // the mark before, where nothing stands between it and this one
  for (const match of text.matchAll(ACTING)) {
    const found = match[0];
    if (found === "\n" || found === "\t" || joins(text, match.index)) continue;
    if (match.index > from) {
      fragment.append(text.slice(from, match.index));
      last = null;
    }
    from = match.index + found.length;
    if (last?.found === found) {
      last.times += 1;
      last.element.textContent = `${last.label} ×${count(last.times)}`;
      continue;
    }
    last = { found, times: 1, label: label(found), element: h("span", { class: "mark", title: title(found) }) };
    last.element.textContent = last.label;
    fragment.append(last.element);
  }
  fragment.append(text.slice(from));
  return fragment;
}

/** A joiner between two characters of a script that needs it is harmless. */
function joins(text, index) {
  const character = text[index];
  if (character !== "\u200c" && character !== "\u200d") return false;
  const before = text[index - 1] ?? "";
  const after = text[index + 1] ?? "";
  const letter = /[^\p{ASCII}\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u;
  return letter.test(before) && letter.test(after);
}

function label(found) {
  if (found.length > 1 && found.startsWith("\u001b[")) return `ESC${found.slice(1)}`;
  const code = found.codePointAt(0);
  if (/^[\p{Mn}\p{Me}]/u.test(found) && found.length > 1) return `+${count([...found].length)} marks`;
  return NAMES[code] ?? `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}

function title(found) {
  const codes = [...found]
    .slice(0, 8)
    .map((part) => `U+${part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
  return codes.join(" ");
}

/** One line for where there is only text: titles, labels, choices. Marks stand in brackets. */
export function plain(text, length = 120) {
  const line = String(text ?? "")
    .replace(/\s+/gu, " ")
    .trim();
  const box = h("span", {}, shown(line.slice(0, cutAt(line, length))));
  for (const mark of box.querySelectorAll(".mark")) mark.textContent = `[${mark.textContent}]`;
  return box.textContent + (line.length > length ? "…" : "");
}

/** A name, a cell of a table: one line, cut where it is long. */
export function inline(text, length = 120) {
  const line = String(text ?? "")
    .replace(/\s+/gu, " ")
    .trim();
  const cut = cutAt(line, length);
  return h(
    "bdi",
    cut < line.length ? { title: plain(line, 1000) } : {},
    shown(line.slice(0, cut)),
    cut < line.length ? "…" : "",
  );
}

/** A whole text as it was written. A long one is cut, with a button for the rest. */
export function block(text, { empty = "Nothing.", className = "" } = {}) {
  if (!text) return h("p", { class: "soft small" }, empty);
  const pre = h("pre", { class: `text ${className}` });
  const box = h("div", {}, pre);
  let from = 0;
  const add = (length) => {
    const end = Math.min(text.length, from + length);
    while (from < end) {
      const to = breakAt(text, from, Math.min(end, from + PART_CHARACTERS));
      pre.append(h("bdi", { class: "part" }, shown(text.slice(from, to))));
      from = to;
    }
  };
  add(FIRST_CHARACTERS);
  if (from < text.length) {
    const rest = () => {
      add(MORE_CHARACTERS);
      if (from < text.length) requestAnimationFrame(rest);
      else button.remove();
    };
    const button = h(
      "button",
      {
        type: "button",
        class: "button more",
        onclick: () => {
          button.disabled = true;
          rest();
        },
      },
      `Show all ${count(text.length)} characters`,
    );
    box.append(button);
  }
  return box;
}

/** Where a part that begins at `from` ends: after the last line feed or space near `position`, where there is one. */
function breakAt(text, from, position) {
  if (position >= text.length) return text.length;
  for (const space of ["\n", " "]) {
    const place = text.lastIndexOf(space, position - 1);
    if (place >= Math.max(from, position - 1000)) return place + 1;
  }
  return Math.max(from + 1, cutAt(text, position));
}

/** Where to cut without halving a pair of surrogates. */
function cutAt(text, position) {
  if (position >= text.length) return text.length;
  const code = text.charCodeAt(position - 1);
  return code >= 0xd800 && code <= 0xdbff ? position - 1 : position;
}
