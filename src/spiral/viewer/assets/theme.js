// The theme is set before the first paint, so that the page does not flash: the one that was chosen here, or the system's.
"use strict";
{
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => {
    const chosen = localStorage.getItem("spiral-theme");
    const system = prefersDark.matches ? "dark" : "light";
    document.documentElement.dataset.theme = chosen === "light" || chosen === "dark" ? chosen : system;
    dispatchEvent(new Event("themechange"));
  };
  follow();
  prefersDark.addEventListener("change", follow);
}
