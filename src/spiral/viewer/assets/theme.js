// The theme is set before the first paint, so that the page does not flash: "light", "dark", or the system's.
"use strict";
(() => {
  const kept = localStorage.getItem("spiral-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
