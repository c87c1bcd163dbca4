// Learning curves of all metrics, of one run or several, and lights for what goes wrong in self-play.

import { get } from "../lib/api.js";
import { line } from "../lib/colours.js";
import { debounce, field, h, openDialog, put } from "../lib/dom.js";
import { count, value as format } from "../lib/format.js";
import { go, link } from "../lib/route.js";
import { notices, runStatus } from "../lib/runs.js";
import { inline, plain } from "../lib/text.js";
import { Chart } from "../parts/chart.js";

/** What is looked at first, in this order: the first that the runs have. */
const FIRST = [
  /^evaluation\/[^/]+\/random\/win$/,
  /^evaluation\/[^/]+\/minimax\/draw$/,
  /^evaluation\/[^/]+\/exploitability$/,
  /^benchmark\/mean\/accuracy$/,
  /^benchmark\/[^/]+\/accuracy$/,
  /^selfplay\/[^/]+\/player#\/return$/,
  /^against\/[^/]+\/[^/]+\/player#\/return$/,
  /^rollout\/illegal$/,
  /^thinking\/length$/,
  /^loss\/entropy$/,
  /^loss\/nll$/,
  /^sampler\/gap_mean$/,
];
const MAX_FIRST = 6;
const PLAYER = /\/player(\d+)\//;
const WORST_FIRST = { bad: 0, warn: 1, unknown: 3, fine: 2 };

export async function show(root, frame, parts, params) {
  const view = new Overview(root, frame, params);
  await view.load();
  return view;
}

class Overview {
  constructor(root, frame, params) {
    this.root = root;
    this.frame = frame;
    this.data = new Map(); // run id -> {steps, metrics, descriptions, notices}
    this.cards = new Map(); // key of a chart -> {card, chart}
    this.hidden = new Set((params.get("hide") ?? "").split(",").filter(Boolean));
    this.read(params);
    this.seen = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) if (entry.isIntersecting) this.fill(entry.target.dataset.key);
      },
      { rootMargin: "400px" },
    );
  }

  read(params) {
    const [from, to] = [params.get("from"), params.get("to")];
    this.query = params.get("q") ?? "";
    this.smoothing = Math.min(0.99, Math.max(0, Number(params.get("smooth") ?? 0) || 0));
    this.log = params.get("log") === "1";
    this.zoom = from !== null && to !== null && Number(from) < Number(to) ? [Number(from), Number(to)] : null;
  }

  keep() {
    const [from, to] = this.zoom ?? [null, null];
    go(
      link([], {
        run: this.frame.runs.length > 1 ? this.frame.run.id : null,
        q: this.query,
        smooth: this.smoothing || null,
        log: this.log ? 1 : null,
        from,
        to,
        hide: [...this.hidden].join(","),
      }),
      { quiet: true },
    );
  }

  async load() {
    await Promise.all(
      this.frame.runs.map(async (run) => {
        try {
          this.data.set(run.id, await get(`/api/runs/${run.id}/metrics`));
        } catch (error) {
          this.data.set(run.id, {
            steps: [],
            metrics: {},
            descriptions: {},
            notices: [`${run.name}: ${error.message}`],
          });
        }
      }),
    );
    this.build();
    this.draw();
    await this.health();
  }

  build() {
    this.title = h("h1", {});
    this.sub = h("p", { class: "sub num" });
    this.recipe = h("p", { class: "sub recipe" });
    this.notes = h("div", {});
    this.lights = h("section", { class: "lights", "aria-label": "Health" });
    this.guards = h("section", { class: "lights", "aria-label": "Guards" });
    const range = h("input", {
      type: "range",
      min: "0",
      max: "0.99",
      step: "0.01",
      value: String(this.smoothing),
      "aria-label": "Smoothing",
      oninput: () => {
        this.smoothing = Number(range.value);
        shownSmoothing.textContent = range.value;
        this.redraw();
      },
    });
    const shownSmoothing = h("output", { class: "num" }, String(this.smoothing));
    const step = (name, index) =>
      h("input", {
        type: "number",
        class: "step-input",
        placeholder: name,
        "aria-label": `${name} step`,
        min: "0",
        onchange: () => {
          const [from, to] = [Number(this.inputs[0].value || 0), Number(this.inputs[1].value || this.lastStep())];
          this.setZoom(this.inputs.some((input) => input.value) && from < to ? [from, to] : null, { typed: true });
        },
      });
    this.inputs = [step("first", 0), step("last", 1)];
    this.reset = h("button", { type: "button", class: "button", onclick: () => this.setZoom(null) }, "All steps");
    this.chips = h("div", { class: "row", role: "group", "aria-label": "Runs in the curves" });
    this.search = h("input", {
      type: "search",
      placeholder: "Find a metric",
      "aria-label": "Find a metric",
      value: this.query,
      oninput: debounce(() => {
        this.query = this.search.value.trim();
        this.draw();
        this.keep();
      }, 120),
    });
    const log = h("input", {
      type: "checkbox",
      checked: this.log,
      onchange: () => {
        this.log = log.checked;
        this.redraw();
      },
    });
    this.toolbar = h(
      "div",
      { class: "toolbar row", role: "group", "aria-label": "Curves" },
      this.search,
      h("label", { class: "check smoothing" }, "Smoothing", range, shownSmoothing),
      h("label", { class: "check" }, log, "Log scale"),
      h("span", { class: "check" }, "Steps", this.inputs[0], "to", this.inputs[1]),
      this.reset,
    );
    this.groups = h("div", { class: "groups" });
    put(
      this.root,
      h("div", { class: "head" }, this.title, this.sub, this.recipe),
      this.notes,
      this.lights,
      this.guards,
      this.chips,
      this.toolbar,
      this.groups,
    );
    this.heading();
    this.showZoom();
  }

  heading() {
    const run = this.frame.run;
    put(this.title, inline(run.name, 80));
    put(this.sub, runStatus(run), run.model ? [" · ", inline(run.model, 60)] : "");
    put(this.recipe, run.recipe ? inline(run.recipe, 200) : null);
    put(
      this.notes,
      notices(
        run.notices,
        [...this.data.values()].map((data) => data.notices ?? []),
      ),
    );
    this.chips.hidden = this.frame.runs.length < 2;
    put(
      this.chips,
      ...this.frame.runs.map((one) =>
        h(
          "button",
          {
            type: "button",
            class: "chip",
            "data-run": one.id,
            "aria-pressed": String(!this.hidden.has(one.id)),
            style: { "--c": this.frame.colour(one.id) },
            onclick: () => {
              if (!this.hidden.delete(one.id)) this.hidden.add(one.id);
              this.heading();
              this.draw();
              this.keep();
              this.chips.querySelector(`[data-run="${CSS.escape(one.id)}"]`)?.focus();
            },
          },
          h("span", { class: "swatch" }),
          inline(one.name, 40),
        ),
      ),
    );
  }

  /* Which charts there are: one a metric, the players of a game in one. */

  charts() {
    const charts = new Map();
    for (const run of this.frame.runs) {
      if (this.hidden.has(run.id)) continue;
      const { steps, metrics, descriptions } = this.data.get(run.id) ?? { steps: [], metrics: {}, descriptions: {} };
      for (const [path, values] of Object.entries(metrics)) {
        const player = PLAYER.exec(path)?.[1] ?? null;
        const key = player === null ? path : path.replace(PLAYER, "/player#/");
        if (!charts.has(key))
          charts.set(key, { key, lines: [], description: descriptions?.[path] ?? descriptions?.[key] ?? "" });
        charts.get(key).lines.push({ run, player, steps, values });
      }
    }
    return charts;
  }

  series(chart) {
    const runs = this.frame.runs.filter((run) => !this.hidden.has(run.id));
    const several = runs.length > 1;
    return chart.lines.map(({ run, player, steps, values }) => ({
      steps,
      values,
      named: player !== null,
      label:
        [several ? plain(run.name, 40) : null, player === null ? null : `player ${player}`]
          .filter(Boolean)
          .join(", ") || chart.key,
      colour: several ? this.frame.colour(run.id) : line(player === null ? 0 : [0, 1, 3, 4, 5, 6][Number(player) % 6]),
      dash: several && player !== null && player !== "0" ? [6, 4] : undefined,
    }));
  }

  draw() {
    for (const { chart } of this.cards.values()) chart?.destroy();
    this.cards.clear();
    this.seen.disconnect();
    this.all = this.charts();
    const words = this.query.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (chart) =>
      words.every((word) =>
        `${chart.key.replace("player#", "player")} ${chart.description}`.toLowerCase().includes(word),
      );
    const groups = new Map();
    if (!words.length) {
      const first = FIRST.flatMap((pattern) => [...this.all.keys()].filter((key) => pattern.test(key)).slice(0, 2));
      groups.set("At a glance", [...new Set(first)].slice(0, MAX_FIRST));
    }
    for (const key of [...this.all.keys()].sort()) {
      if (!fits(this.all.get(key))) continue;
      const group =
        key
          .split("/")
          .slice(0, -1)
          .filter((part) => part !== "player#")
          .join("/") || "other";
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push(key);
    }
    this.groups.replaceChildren();
    for (const [name, keys] of groups) {
      if (!keys.length) continue;
      const glance = name === "At a glance";
      const cards = keys.map((key) => this.card(`${glance ? "glance" : "all"}:${key}`, key, glance));
      this.groups.append(
        h(
          "details",
          { class: "group", open: true },
          h("summary", {}, h("h2", {}, name), h("span", { class: "soft small num" }, String(keys.length))),
          h("div", { class: "charts" }, cards),
        ),
      );
    }
    if (!this.groups.children.length) {
      this.groups.append(
        h(
          "p",
          { class: "empty panel" },
          words.length
            ? "No metric has these words."
            : "No step has been written yet. The curves appear with the first one.",
        ),
      );
    }
  }

  card(id, key, whole) {
    const chart = this.all.get(key);
    const parts = key.split("/");
    const name = whole ? key.replace("/player#", "") : parts[parts.length - 1];
    const body = h("div", { class: "chart-body" });
    const card = h(
      "figure",
      { class: "chart panel", "data-key": id, "aria-label": this.spoken(chart) },
      h(
        "figcaption",
        {},
        h(
          "button",
          {
            type: "button",
            class: "chart-name",
            title: chart.description || key,
            "aria-label": `Enlarge ${key.replace("/player#", "")}`,
            onclick: () => this.enlarge(key),
          },
          h("bdi", {}, name),
        ),
      ),
      body,
    );
    this.cards.set(id, { card, body, key, chart: null });
    this.seen.observe(card);
    return card;
  }

  /** The curve for those who cannot see it. */
  spoken(chart) {
    const parts = chart.lines.map(({ run, player, steps, values }) => {
      let last = values.length - 1;
      while (last >= 0 && values[last] === null) last -= 1;
      const who = [this.frame.runs.length > 1 ? plain(run.name, 40) : null, player === null ? null : `player ${player}`]
        .filter(Boolean)
        .join(", ");
      return last < 0 ? "" : `${who ? `${who}: ` : ""}${format(values[last])} at step ${steps[last]}`;
    });
    return `${chart.key.replace("/player#", "")}: ${parts.slice(0, 8).join("; ")}`;
  }

  fill(id) {
    const card = this.cards.get(id);
    if (!card || card.chart) return;
    card.chart = new Chart(card.body, { onzoom: (zoom) => this.setZoom(zoom), ...this.options() });
    card.chart.set(this.series(this.all.get(card.key)));
  }

  options() {
    return { smoothing: this.smoothing, log: this.log, zoom: this.zoom };
  }

  redraw() {
    for (const { chart, key } of this.cards.values()) chart?.set(this.series(this.all.get(key)), this.options());
    this.keepSoon();
  }

  keepSoon = debounce(() => this.keep(), 200);

  lastStep() {
    return Math.max(0, ...[...this.data.values()].map((data) => data.steps.at(-1) ?? 0));
  }

  setZoom(zoom, { typed = false } = {}) {
    this.zoom = zoom;
    for (const { chart } of this.cards.values()) chart?.zoom(zoom);
    this.showZoom({ typed });
    this.keep();
  }

  /** Show the steps in the boxes, unless they come from there: somebody may be typing in the other one. */
  showZoom({ typed = false } = {}) {
    this.reset.disabled = !this.zoom;
    if (typed) return;
    this.inputs[0].value = this.zoom ? this.zoom[0] : "";
    this.inputs[1].value = this.zoom ? this.zoom[1] : "";
  }

  enlarge(key) {
    const chart = this.all.get(key);
    const body = h("div", { class: "chart-body" });
    const series = this.series(chart);
    const data = h("div", { class: "scroll chart-table", tabindex: "0", role: "region", "aria-label": "Values" });
    const large = new Chart(body, {
      height: 380,
      ...this.options(),
      onzoom: (zoom) => {
        this.setZoom(zoom);
        large.zoom(zoom);
      },
    });
    const dialog = openDialog(
      key.replace("/player#", ""),
      h(
        "div",
        { class: "stack" },
        chart.description ? h("p", { class: "soft" }, chart.description) : null,
        body,
        h(
          "details",
          {
            ontoggle: (event) => {
              if (event.target.open && !data.children.length) data.append(values(series));
            },
          },
          h("summary", {}, "Values"),
          data,
        ),
      ),
    );
    dialog.addEventListener("close", () => large.destroy());
    large.set(series);
  }

  async health() {
    const run = this.frame.run;
    let lights;
    let guards;
    try {
      ({ lights, guards } = await get(`/api/runs/${run.id}/health`));
    } catch (error) {
      put(this.lights, h("p", { class: "notice" }, error.message));
      return;
    }
    if (run !== this.frame.run) return;
    const groups = new Map(); // a light of the same name for several games and players is one, the worst first
    for (const light of lights) groups.set(light.name, [...(groups.get(light.name) ?? []), light]);
    put(
      this.lights,
      ...[...groups.values()].map((group) => {
        group.sort((a, b) => WORST_FIRST[a.state] - WORST_FIRST[b.state]);
        return lamp(group);
      }),
    );
    this.lights.hidden = !lights.length;
    const open = new Set([...this.guards.querySelectorAll("details[open]")].map((one) => one.dataset.name));
    put(this.guards, ...guards.map((guard) => guardLamp(guard, open.has(guard.name))));
    this.guards.hidden = !guards.length;
  }

  async grow(id, step) {
    if (this.growing) {
      this.again = [id, step];
      return;
    }
    this.growing = true;
    try {
      const data = this.data.get(id);
      if (!data) return;
      if (step < data.steps.at(-1)) Object.assign(data, { steps: [], metrics: {} }); // resumed from an earlier step
      const since = data.steps.at(-1);
      const news = await get(`/api/runs/${id}/metrics`, { since });
      if (!append(data, news, since)) return;
      this.heading();
      const drawn = [...this.all.keys()].join();
      this.all = this.charts();
      if ([...this.all.keys()].join() !== drawn) this.draw();
      else {
        for (const { chart, key, card } of this.cards.values()) {
          chart?.set(this.series(this.all.get(key)));
          card.setAttribute("aria-label", this.spoken(this.all.get(key)));
        }
      }
      if (id === this.frame.run.id) await this.health();
    } finally {
      this.growing = false;
      if (this.again) {
        const next = this.again;
        this.again = null;
        this.grow(...next);
      }
    }
  }

  runs() {
    this.heading();
  }

  async update(parts, params) {
    if ((params.get("hide") ?? "") !== [...this.hidden].join(",") || (params.get("q") ?? "") !== this.query)
      return false;
    this.heading();
    await this.health();
    return true;
  }

  leave() {
    this.seen.disconnect();
    for (const { chart } of this.cards.values()) chart?.destroy();
  }
}

/** Add the steps after `since` to what is there; whether there are any. */
function append(data, news, since) {
  data.notices = news.notices;
  const fresh = news.steps.map((step, index) => [step, index]).filter(([step]) => since === undefined || step > since);
  const before = data.steps.length;
  for (const path of new Set([...Object.keys(data.metrics), ...Object.keys(news.metrics)])) {
    const old = data.metrics[path] ?? new Array(before).fill(null);
    data.metrics[path] = old.concat(fresh.map(([, index]) => news.metrics[path]?.[index] ?? null));
  }
  data.steps = data.steps.concat(fresh.map(([step]) => step));
  data.descriptions = { ...data.descriptions, ...news.descriptions };
  return fresh.length > 0;
}

const SAID = {
  fine: "fine",
  warn: "warning",
  warning: "warning",
  bad: "bad",
  collapsed: "collapsed",
  unknown: "not known",
};

function lamp(group) {
  const worst = group[0];
  const more = group.filter((light) => light.state === worst.state).length - 1;
  const where = (light) =>
    [
      light.game,
      light.opponent && `against ${light.opponent}`,
      light.player === null || light.player === undefined ? null : `player ${light.player}`,
    ]
      .filter(Boolean)
      .join(", ");
  const judged = worst.state === "warn" || worst.state === "bad";
  return h(
    "details",
    { class: `lamp ${worst.state}` },
    h(
      "summary",
      {},
      h("span", { class: "dot", "aria-hidden": "true" }),
      h("span", { class: "lamp-name" }, worst.name),
      h(
        "span",
        { class: "lamp-state" },
        h("b", {}, SAID[worst.state] ?? worst.state),
        judged ? [" · ", inline(`${where(worst)}${more ? ` and ${more} more` : ""}`, 60)] : null,
      ),
    ),
    h("p", { class: "small" }, inline(worst.rule ?? "", 400)),
    h(
      "ul",
      { class: "small num" },
      group
        .slice(0, 30)
        .map((light) =>
          h(
            "li",
            {},
            h(
              "span",
              { class: `tag ${{ fine: "good", warn: "warn", bad: "bad" }[light.state] ?? ""}` },
              SAID[light.state] ?? light.state,
            ),
            " ",
            inline(where(light) || "the run", 80),
            light.reading ? [": ", inline(light.reading, 200)] : "",
          ),
        ),
    ),
  );
}

const LAMP = { fine: "fine", warning: "warn", collapsed: "bad", unknown: "unknown" };
const TAG = { fine: "good", warning: "warn", collapsed: "bad" };
const MAX_LINES = 20;

/** A guard of the run: its state, since when and why, and what its answers did. */
function guardLamp(guard, open) {
  const found = guard.state === "warning" || guard.state === "collapsed";
  const tag = (state) => h("span", { class: `tag ${TAG[state] ?? ""}` }, SAID[state] ?? state);
  const answered = guard.changes.filter((change) => change.answer);
  return h(
    "details",
    { class: `lamp ${LAMP[guard.state] ?? "unknown"}`, "data-name": guard.name, open },
    h(
      "summary",
      {},
      h("span", { class: "dot", "aria-hidden": "true" }),
      h("span", { class: "lamp-name" }, "guard ", inline(guard.name, 40)),
      h(
        "span",
        { class: "lamp-state" },
        h("b", {}, SAID[guard.state] ?? guard.state),
        found && guard.since !== null ? ` since step ${count(guard.since)}` : "",
        answered.length
          ? [" · ", inline(answered.at(-1).answer, 20), ` after step ${count(answered.at(-1).step)}`]
          : "",
      ),
    ),
    h(
      "p",
      { class: "small" },
      guard.rule ? [inline(guard.rule, 600), " "] : "",
      "Answer: ",
      inline(guard.answer, 40),
      ".",
    ),
    found && !guard.findings.length
      ? h("p", { class: "small soft" }, "Why is not on record: the run was written by an earlier version.")
      : null,
    h(
      "ul",
      { class: "small num" },
      guard.findings.slice(0, MAX_LINES).map((one) => h("li", {}, tag(one.level), " ", inline(one.message, 600))),
      more(guard.findings.length - MAX_LINES, "more are not shown"),
    ),
    guard.changes.length
      ? [
          h("h3", { class: "small" }, "What happened"),
          h(
            "ol",
            { class: "small num", reversed: true },
            guard.changes
              .slice(-MAX_LINES)
              .reverse()
              .map((change) =>
                h(
                  "li",
                  {},
                  `after step ${count(change.step)} `,
                  tag(change.state),
                  change.answer
                    ? [
                        " ",
                        h("b", {}, inline(change.answer, 20)),
                        change.effect ? [": ", inline(change.effect, 300)] : "",
                      ]
                    : "",
                  change.findings.length
                    ? h(
                        "span",
                        { class: "soft" },
                        " ",
                        inline(change.findings.map((one) => one.message).join("; "), 400),
                      )
                    : "",
                ),
              ),
            more(guard.changes.length - MAX_LINES, "earlier ones are in guards.jsonl"),
          ),
        ]
      : null,
  );
}

function more(number, words) {
  return number > 0 ? h("li", { class: "soft" }, `${count(number)} ${words}`) : null;
}

/** The numbers of a chart as a table, the last steps first. */
function values(series) {
  const steps = [...new Set(series.flatMap((one) => one.steps))].sort((a, b) => b - a).slice(0, 500);
  const at = series.map((one) => new Map(one.steps.map((step, index) => [step, one.values[index]])));
  const rows = steps.filter((step) => at.some((map) => (map.get(step) ?? null) !== null));
  return h(
    "table",
    { class: "num" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, "step"),
        series.map((one) => h("th", { scope: "col", class: "num" }, one.label)),
      ),
    ),
    h(
      "tbody",
      {},
      rows.map((step) =>
        h(
          "tr",
          {},
          h("td", {}, String(step)),
          at.map((map) => h("td", { class: "num" }, format(map.get(step) ?? null))),
        ),
      ),
    ),
  );
}
