// The frame of the page: which page is shown, the runs, the keys, and news from runs that grow.

import { ApiError, get } from "./lib/api.js";
import { line } from "./lib/colours.js";
import { h, openDialog, put } from "./lib/dom.js";
import { here, link } from "./lib/route.js";
import { runStatus } from "./lib/runs.js";
import { inline, plain } from "./lib/text.js";

const PAGES = [
  { name: "overview", path: [], title: "Overview", load: () => import("./pages/overview.js") },
  { name: "games", path: ["games"], title: "Games", load: () => import("./pages/games.js") },
  { name: "game", path: ["game"], title: "Game", load: () => import("./pages/replay.js"), nav: "games" },
  { name: "evaluation", path: ["evaluation"], title: "Evaluation", load: () => import("./pages/evaluation.js") },
  { name: "play", path: ["play"], title: "Play", load: () => import("./pages/play.js") },
  { name: "compare", path: ["compare"], title: "Configuration", load: () => import("./pages/compare.js") },
];
const REFRESH_S = 5;

const main = document.getElementById("main");
const state = { runs: [], run: null, page: null, shown: null, serial: 0 };

/** What a page may use of the frame. */
const frame = {
  get runs() {
    return state.runs;
  },
  get run() {
    return state.runs.find((run) => run.id === state.run) ?? state.runs[0];
  },
  colour: (id) =>
    line(
      Math.max(
        0,
        state.runs.findIndex((run) => run.id === id),
      ),
    ),
  choose: chooseRun,
  title: (text) => {
    document.title = `${text} · SPIRAL`;
  },
};

async function show() {
  const { parts, params } = here();
  const page = PAGES.find(({ path }) => (path[0] ?? "") === (parts[0] ?? ""));
  const wanted = parts[0] === "game" ? parts[1] : params.get("run");
  if (wanted && state.runs.some((run) => run.id === wanted)) state.run = wanted;
  drawFrame(page);
  if (!page) {
    leave();
    put(
      main,
      h("h1", {}, "No such page"),
      h("p", { class: "soft" }, "This address names no page. ", h("a", { href: "#/" }, "Overview")),
    );
    return;
  }
  if (state.page === page && state.shown?.update && (await state.shown.update(parts, params)) !== false) return;
  const serial = ++state.serial;
  leave();
  frame.title(page.title);
  const root = h("div", { class: `page page-${page.name}` });
  const waiting = setTimeout(() => {
    if (serial === state.serial && !state.shown)
      put(main, h("p", { class: "soft waiting-text", role: "status" }, "Loading"));
  }, 250);
  let shown;
  try {
    const module = await page.load();
    if (serial !== state.serial) return;
    state.page = page;
    shown = await module.show(root, frame, parts, params);
    if (serial === state.serial) put(main, root);
  } catch (error) {
    if (serial !== state.serial) return;
    put(main, root);
    put(root, h("h1", {}, page.title), h("p", { class: "notice bad" }, error.message));
    if (!(error instanceof ApiError)) console.error(error);
    return;
  } finally {
    clearTimeout(waiting);
  }
  if (serial !== state.serial) shown?.leave?.();
  else state.shown = shown;
}

function leave() {
  state.shown?.leave?.();
  state.shown = null;
  state.page = null;
}

function drawFrame(page = state.page) {
  const current = page?.nav ?? page?.name;
  const nav = document.getElementById("nav");
  put(
    nav,
    ...PAGES.filter((one) => !one.nav).map((one) =>
      h(
        "a",
        {
          href: link(one.path, one.path.length ? { run: state.runs.length > 1 ? state.run : null } : {}),
          "aria-current": one.name === current ? "page" : null,
        },
        one.title,
      ),
    ),
  );
  drawRuns();
}

function drawRuns() {
  const box = document.getElementById("runs");
  const focused = box.contains(document.activeElement) ? document.activeElement.dataset.run : null;
  put(
    box,
    h("h2", {}, state.runs.length === 1 ? "Run" : "Runs"),
    ...state.runs.map((run) =>
      h(
        "button",
        {
          type: "button",
          class: "run",
          "data-run": run.id,
          "aria-pressed": String(run.id === frame.run.id),
          title: plain(run.path, 300),
          onclick: () => chooseRun(run.id),
        },
        h("span", { class: "swatch", style: { "--c": frame.colour(run.id) } }),
        h("span", { class: "name" }, inline(run.name, 80)),
        h("span", { class: "status num" }, runStatus(run)),
      ),
    ),
  );
  if (focused !== null) box.querySelector(`[data-run="${CSS.escape(focused)}"]`)?.focus();
}

function chooseRun(id) {
  state.run = id;
  const { parts, params } = here();
  if (parts[0] === "game") {
    location.hash = link(["games"], { run: id });
    return;
  }
  params.set("run", id);
  const address = link(parts, params);
  if (location.hash === address) drawRuns();
  else location.hash = address;
}

/* News: one stream for all runs, closed while the page is hidden. */

let stream = null;

async function refreshRuns() {
  const before = JSON.stringify(state.runs);
  try {
    state.runs = (await get("/api/runs")).runs;
  } catch {
    return;
  }
  if (JSON.stringify(state.runs) !== before) {
    drawRuns();
    state.shown?.runs?.();
  }
}

function listen() {
  if (document.hidden) {
    stream?.close();
    stream = null;
    return;
  }
  if (stream) return;
  stream = new EventSource("/api/events");
  stream.addEventListener("message", async (event) => {
    const { run, step } = JSON.parse(event.data);
    await refreshRuns();
    state.shown?.grow?.(String(run), step);
  });
}

/* Keys and theme. */

const KEYS = [
  ["g then o, g, e, p, c", "overview, games, evaluation, play, configuration"],
  ["/", "search"],
  ["j  k", "next and last: turn of a game, row of a table"],
  ["←  →", "turn before and after"],
  ["Home  End", "first turn, end of the game"],
  ["w", "the worst move"],
  ["c", "the next colouring of tokens"],
  ["[  ]", "game before and after"],
  ["Enter", "open the row"],
  ["d", "light or dark"],
  ["?", "these keys"],
];
const GO = { o: [], g: ["games"], e: ["evaluation"], p: ["play"], c: ["compare"] };
let going = -Infinity; // when g was pressed

function showKeys() {
  const list = h("dl", { class: "keys" });
  for (const [keys, what] of KEYS) {
    const names = keys.split("  ").map((key) => h("kbd", {}, key));
    list.append(
      h(
        "dt",
        {},
        names.flatMap((name, index) => (index ? [" ", name] : [name])),
      ),
      h("dd", {}, what),
    );
  }
  openDialog("Keys", list, { narrow: true });
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest(
    "input:not([type=range]):not([type=checkbox]), textarea, select, [contenteditable]",
  );
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.timeStamp - going < 1200 && GO[event.key]) {
    going = -Infinity;
    event.preventDefault();
    location.hash = link(GO[event.key], GO[event.key].length && state.runs.length > 1 ? { run: state.run } : {});
    return;
  }
  if (state.shown?.key?.(event)) {
    event.preventDefault();
    return;
  }
  if (event.key === "g") going = event.timeStamp;
  else if (event.key === "?") showKeys();
  else if (event.key === "d") setTheme(isDark() ? "light" : "dark");
  else if (event.key === "/") {
    const search = main.querySelector("input[type=search]");
    if (search) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  }
});

function isDark() {
  return document.documentElement.dataset.theme === "dark"; // theme.js sets it before anything else
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("spiral-theme", theme);
  dispatchEvent(new Event("themechange"));
}

function nameThemeButton() {
  put(document.getElementById("theme"), isDark() ? "Light theme" : "Dark theme", h("kbd", {}, "d"));
}

document.getElementById("theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
document.getElementById("help").addEventListener("click", showKeys);
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address after the # names a page
  main.focus();
});
addEventListener("themechange", nameThemeButton);
document.addEventListener("visibilitychange", () => {
  listen();
  if (!document.hidden) refreshRuns();
});

addEventListener("hashchange", async () => {
  const before = state.page;
  await show();
  if (state.page !== before) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
});

async function start() {
  nameThemeButton();
  try {
    state.runs = (await get("/api/runs")).runs;
  } catch (error) {
    put(main, h("h1", {}, "Nothing to show"), h("p", { class: "notice bad" }, error.message));
    return;
  }
  state.run = state.runs[0]?.id ?? null;
  if (!state.runs.length) {
    put(main, h("h1", {}, "No runs"), h("p", { class: "soft" }, "Start the viewer with a run: spiral view RUN_DIR"));
    return;
  }
  await show();
  listen();
  setInterval(() => {
    if (!document.hidden) refreshRuns();
  }, REFRESH_S * 1000);
}

start();
