// Numbers as people read them.

const MINUS = "\u2212";

/** 12345 -> "12,345". */
export function count(number) {
  return Number(number).toLocaleString("en-US");
}

/** A number to about four digits: "0.0312", "1,204", "3.1e-7". */
export function value(number) {
  if (number === null || number === undefined || Number.isNaN(number)) return "–";
  const size = Math.abs(number);
  let text;
  if (number === 0) text = "0";
  else if (size >= 1e6 || size < 1e-4) text = size.toExponential(2);
  else if (size >= 1000) text = Math.round(size).toLocaleString("en-US");
  else text = String(Number(size.toPrecision(4)));
  return number < 0 ? MINUS + text : text;
}

/** A number with its sign: "+0.50", "+1". */
export function signed(number, digits = Number.isInteger(number) ? 0 : 2) {
  if (number === null || number === undefined) return "–";
  const text = Math.abs(number).toFixed(digits);
  return Number(text) === 0 ? "0" : (number < 0 ? MINUS : "+") + text;
}

/** A share as a percentage. */
export function percent(share) {
  if (share === null || share === undefined) return "–";
  const size = share * 100;
  return `${size !== 0 && Math.abs(size) < 9.95 ? size.toFixed(1) : Math.round(size)}%`;
}

/** "1 turn", "2 turns". */
export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}
