// Copies the files that the page and its tests load, with their licences, out of node_modules. Nobody who uses SPIRAL runs this.

import { copyFileSync, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const tests = join(here, "../../../../../tests/viewer/vendor");
const FILES = [
  ["uplot/dist/uPlot.esm.js", join(here, "uplot/uPlot.esm.js")],
  ["uplot/dist/uPlot.min.css", join(here, "uplot/uPlot.min.css")],
  ["uplot/LICENSE", join(here, "uplot/LICENSE")],
  ["axe-core/axe.min.js", join(tests, "axe-core/axe.min.js")],
  ["axe-core/LICENSE", join(tests, "axe-core/LICENSE")],
];

for (const [from, to] of FILES) {
  mkdirSync(dirname(to), { recursive: true });
  copyFileSync(join(here, "node_modules", from), to);
}
