// Colours of lines: far apart for every kind of sight, and of the same weight (Observable's categorical palette).

export const LINES = [
  "#4269d0",
  "#e08c00",
  "#ff725c",
  "#3ca951",
  "#a463f2",
  "#29a3a3",
  "#d6559a",
  "#9c6b4e",
  "#7a8290",
  "#86a62b",
];

/** The colour of number `index`. */
export function line(index) {
  return LINES[index % LINES.length];
}
