// What evaluations and benchmarks found, over the steps of a run.

import { get } from "../lib/api.js";
import { line } from "../lib/colours.js";
import { debounce, field, h, put, select, svg } from "../lib/dom.js";
import { count, percent, plural, signed, value } from "../lib/format.js";
import { go, link } from "../lib/route.js";
import { notices } from "../lib/runs.js";
import { block, inline, plain } from "../lib/text.js";
import { Chart } from "../parts/chart.js";

const ITEMS = 20;
const UNKNOWN = -1; // in the address, the step of a result whose step is not known
const LINES = { win: line(0), draw: line(8), loss: line(2) };

export async function show(root, frame, parts, params) {
  const view = new Evaluation(root, frame, params);
  await view.load();
  return view;
}

class Evaluation {
  constructor(root, frame, params) {
    this.root = root;
    this.frame = frame;
    this.params = params;
    this.drawn = [];
  }

  async load() {
    const run = this.frame.run;
    this.data = await get(`/api/runs/${run.id}/evaluation`);
    this.run = run.id;
    this.leave();
    const { steps, games, benchmarks, exploitability, results, kuhn, payoffs } = this.data;
    const sections = [
      games.length || results.games.length ? this.opponents(games, results.games) : null,
      exploitability.length || results.exploitability.length
        ? this.exploitability(exploitability, results.exploitability)
        : null,
      kuhn.length ? this.kuhn(kuhn) : null,
      ...payoffs.map((table) => this.payoffs(table)),
      benchmarks.length ? this.benchmarks(benchmarks) : null,
    ].filter(Boolean);
    put(
      this.root,
      h(
        "div",
        { class: "head" },
        h("h1", {}, "Evaluation"),
        h(
          "p",
          { class: "sub num" },
          inline(run.name, 60),
          steps.length ? ` · ${plural(steps.length, "evaluation")}, the last after step ${count(steps.at(-1))}` : "",
        ),
      ),
      notices(run.notices ?? [], this.data.notices ?? []),
      h(
        "div",
        { class: "stack sections" },
        sections.length
          ? sections
          : h(
              "p",
              { class: "panel empty" },
              "No evaluation has been written yet. `evaluation.every` and `benchmark.every` say when one is due; `spiral evaluate`, `exploitability` and `benchmark` of the run add to it.",
            ),
      ),
    );
    if (benchmarks.length) await this.items();
  }

  chart(title, series, options = {}) {
    const body = h("div", { class: "chart-body" });
    const card = h(
      "figure",
      {
        class: "chart panel",
        "aria-label": `${title}: ${series.map((one) => `${one.label} ${(options.format ?? value)(one.values.at(-1))}`).join(", ")} after step ${series[0]?.steps.at(-1)}`,
      },
      h("figcaption", {}, h("span", { class: "chart-name" }, inline(title, 80))),
      body,
    );
    const chart = new Chart(body, { height: 170, ...options });
    chart.set(series);
    this.drawn.push(chart);
    return card;
  }

  section(title, note, ...children) {
    return h(
      "section",
      { class: "stack tight" },
      h("div", {}, h("h2", {}, title), note ? h("p", { class: "soft small" }, note) : null),
      children,
    );
  }

  opponents(games, others) {
    const groups = group(games, (row) => `${row.game} against ${row.opponent}`);
    const cards = [...groups].map(([title, rows]) =>
      this.chart(
        title,
        ["win", "draw", "loss"]
          .filter((key) => rows.some((row) => row[key]))
          .map((key) => ({
            label: key,
            colour: LINES[key],
            steps: rows.map((row) => row.step),
            values: rows.map((row) => row[key]?.rate ?? null),
            low: rows.map((row) => row[key]?.low ?? null),
            high: rows.map((row) => row[key]?.high ?? null),
          })),
        { format: percent },
      ),
    );
    const last = [...groups.values()].map((rows) => [
      inline(rows.at(-1).game, 50),
      inline(rows.at(-1).opponent, 40),
      count(rows.at(-1).step),
      ...["win", "draw", "loss"].map((key) => rate(rows.at(-1)[key])),
      percent(rows.at(-1).illegal),
      count(rows.at(-1).episodes),
    ]);
    return this.section(
      "Games against opponents",
      "Bands and ranges are 95% intervals.",
      cards.length ? h("div", { class: "charts" }, cards) : null,
      last.length
        ? table(
            "The last evaluation",
            ["Game", "Opponent", "After step", "Win", "Draw", "Loss", "Illegal", "Games"],
            last,
          )
        : null,
      others.length
        ? [
            h("h3", {}, "From ", h("code", {}, "spiral evaluate")),
            h(
              "p",
              { class: "soft small" },
              "Rows of one setup, with the same games and seed, can be compared: the first step is before, the last is after. In a game of one player a win is the highest return.",
            ),
            table(
              "Results of spiral evaluate",
              ["Game", "Opponent", "After step", "Win", "Draw", "Loss", "Mean return", "Illegal", "Games", "Seed"],
              inSetups(others, (row) => [
                stepName(row.step),
                rate(row.win),
                rate(row.draw),
                rate(row.loss),
                rate(row.mean_return, (one) => signed(one, 2)),
                percent(row.illegal),
                [
                  count(row.episodes),
                  row.not_played
                    ? h("span", { class: "soft small" }, ` of ${count(row.episodes + row.not_played)}`)
                    : "",
                ],
                String(row.seed),
              ]),
            ),
          ]
        : null,
    );
  }

  exploitability(rows, others) {
    const known = others.filter((row) => row.step !== null && row.exploitability);
    const games = group([...rows, ...known], (row) => row.game);
    const cards = [...games.keys()]
      .map((game) => {
        const line_ = (found, label, colour) => ({
          label,
          colour,
          steps: found.map((row) => row.step),
          values: found.map((row) => row.exploitability?.rate ?? null),
          low: found.map((row) => row.exploitability?.low ?? null),
          high: found.map((row) => row.exploitability?.high ?? null),
        });
        const own = rows.filter((row) => row.game === game && row.exploitability);
        const setups = own.length
          ? []
          : [
              ...group(
                known.filter((row) => row.game === game),
                (row) => row.setup,
              ).values(),
            ];
        return [
          game,
          [
            own.length ? line_(own, "exploitability", line(4)) : null,
            ...setups.map((found, index) =>
              line_(found, index ? `setup ${index + 1}` : "exploitability", line([4, 0, 3, 1, 5, 6][index % 6])),
            ),
          ].filter(Boolean),
        ];
      })
      .filter(([, series]) => series.length)
      .map(([game, series]) => this.chart(game, series));
    return this.section(
      "Exploitability",
      "Half of what best responses win against the policy, over all players; 0 is an equilibrium.",
      cards.length ? h("div", { class: "charts" }, cards) : null,
      others.length
        ? [
            h("h3", {}, "From ", h("code", {}, "spiral exploitability")),
            table(
              "Results of spiral exploitability",
              ["Game", "Found from", "After step", "Exploitability", "Optimal moves", "Illegal", "Seed"],
              inSetups(
                others,
                (row) => [
                  stepName(row.step),
                  rate(row.exploitability, (one) => value(one)),
                  rate(row.optimal_share),
                  percent(row.illegal),
                  String(row.seed),
                ],
                (row) => METHODS[row.method]?.(row) ?? inline(row.method, 40),
              ),
            ),
          ]
        : null,
    );
  }

  kuhn(rows) {
    const steps = [...new Set(rows.map((row) => row.step))].sort((a, b) => a - b);
    const box = h("div", { class: "two num" });
    const said = h("output", { class: "num" });
    const draw = (index) => {
      const step = steps[index];
      said.textContent = `after step ${count(step)}`;
      const now = rows.filter((row) => row.step === step);
      put(
        box,
        [0, 1].map((player) => {
          const own = now.filter((row) => mover(row.information_state) === player).sort(byCard);
          return own.length
            ? h("div", { class: "kuhn" }, h("h3", { class: `p${player}` }, `Player ${player}`), own.map(kuhnRow))
            : null;
        }),
      );
    };
    const range = h("input", {
      type: "range",
      min: "0",
      max: String(steps.length - 1),
      value: String(steps.length - 1),
      "aria-label": "Evaluation",
      oninput: () => draw(Number(range.value)),
    });
    draw(steps.length - 1);
    return this.section(
      "Kuhn poker: how often it bets or calls",
      "Bars are the policy, brackets and the last column what the family of equilibria allows.",
      h(
        "div",
        { class: "panel pad stack tight" },
        steps.length > 1
          ? h("label", { class: "check" }, "Evaluation", range, said)
          : h("p", { class: "soft small" }, said),
        box,
      ),
    );
  }

  payoffs(found) {
    const { kind, game, players, columns, matrix, games, low, high, ratings, left_out } = found;
    const size = Math.max(
      1e-9,
      ...matrix
        .flat()
        .filter((one) => one !== null)
        .map(Math.abs),
    );
    const cell = (one, row, column) => {
      const number = games?.[row]?.[column];
      const cannot = kind === "past selves" ? column >= row : row === column; // a later self, or itself
      if (one === null || (cannot && kind === "tournament"))
        return h("td", { class: cannot ? "" : "unplayed" }, cannot ? "" : "not played");
      return h(
        "td",
        { class: one < 0 ? "negative" : "positive", style: { "--strength": (Math.abs(one) / size).toFixed(3) } },
        signed(one, 2),
        low?.[row]?.[column] === null || low?.[row]?.[column] === undefined
          ? null
          : h("span", { class: "small" }, `${signed(low[row][column], 2)} to ${signed(high[row][column], 2)}`),
        number === undefined || number === null ? null : h("span", { class: "small" }, `n = ${count(number)}`),
      );
    };
    const heat = h(
      "table",
      { class: "heat num" },
      h("caption", { class: "sr" }, "Mean return of the row's player against the column's"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("td", {}),
          columns.map((name) => h("th", { scope: "col" }, inline(name, 24))),
        ),
      ),
      h(
        "tbody",
        {},
        matrix.map((row, at) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, inline(players[at], 24)),
            row.map((one, column) => cell(one, at, column)),
          ),
        ),
      ),
    );
    const { title, note } = TABLES[kind](found);
    return this.section(
      [title, " in ", inline(game, 60)],
      [
        note,
        left_out
          ? ` ${plural(left_out, "more player")} ${left_out === 1 ? "is" : "are"} in its file and not shown here.`
          : "",
      ],
      h(
        "div",
        { class: columns.length > 6 ? "stack" : "two" },
        h(
          "div",
          {
            class: "panel pad scroll",
            tabindex: "0",
            role: "region",
            "aria-label": `${title} in ${plain(game, 60)}: payoffs`,
          },
          heat,
        ),
        kind === "past selves" ? pastSelves(found) : null,
        kind === "population" ? this.population(found) : null,
        kind === "tournament" && ratings.length ? h("div", { class: "panel pad" }, ratingPlot(ratings)) : null,
      ),
    );
  }

  population({ game, shares, exploitability }) {
    return h(
      "div",
      { class: "stack tight" },
      table(
        `The mixture in ${plain(game, 60)}`,
        ["Policy", "Share of the mixture"],
        shares.map(({ name, share }) => [inline(name, 40), percent(share)]),
      ),
      this.chart("exploitability of the mixture", [
        {
          label: "exploitability",
          colour: line(4),
          steps: exploitability.map((one) => one.responses),
          values: exploitability.map((one) => one.value),
        },
      ]),
    );
  }

  benchmarks(rows) {
    const groups = group(rows, (row) => row.task);
    const cards = [...groups]
      .map(([task, all]) => [task, all.filter((row) => row.step !== null)])
      .filter(([, own]) => own.length)
      .map(([task, own]) =>
        this.chart(
          task,
          [
            {
              label: "accuracy",
              colour: line(0),
              steps: own.map((row) => row.step),
              values: own.map((row) => row.accuracy.rate),
              low: own.map((row) => row.accuracy.low),
              high: own.map((row) => row.accuracy.high),
            },
          ],
          { format: percent },
        ),
      );
    this.steps = new Map([...groups].map(([task, own]) => [task, own.map((row) => row.step ?? UNKNOWN)]));
    this.itemForm = h("form", {
      class: "filters",
      role: "search",
      "aria-label": "Filters of items",
      onsubmit: (event) => event.preventDefault(),
    });
    this.itemList = h("div", { class: "stack tight" });
    return this.section(
      "Benchmarks",
      "Accuracy on reasoning problems, of the run's own evaluations and of `spiral benchmark`. Bands and ranges are 95% intervals.",
      h("div", { class: "charts" }, cards),
      h(
        "div",
        { class: "panel scroll", tabindex: "0", role: "region", "aria-label": "The last benchmarks" },
        h(
          "table",
          { class: "num" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              ["Task", "After step", "Accuracy", "Problems"].map((name, index) =>
                h("th", { scope: "col", class: index ? "num" : "" }, name),
              ),
            ),
          ),
          h(
            "tbody",
            {},
            [...groups.values()]
              .map((own) => own.at(-1))
              .map((row) =>
                h(
                  "tr",
                  {},
                  h("th", { scope: "row" }, inline(row.task, 80)),
                  h("td", { class: "num" }, stepName(row.step)),
                  h("td", { class: "num nowrap" }, rate(row.accuracy)),
                  h("td", { class: "num" }, count(row.items)),
                ),
              ),
          ),
        ),
      ),
      h("h3", { class: "space" }, "Items"),
      this.itemForm,
      this.itemList,
    );
  }

  drawItemForm() {
    const pick = (key, label, pairs) =>
      field(
        label,
        select(pairs, this.params.get(key) ?? "", (chosen) => this.change({ [key]: chosen }), { name: key }),
      );
    const steps = [...new Set([...this.steps.values()].flat())].sort((a, b) => a - b);
    const search = h("input", {
      type: "search",
      name: "q",
      value: this.params.get("q") ?? "",
      placeholder: "Words in prompts and replies",
      "aria-label": "Search items",
      oninput: debounce(() => this.change({ q: search.value.trim() }), 350),
    });
    put(
      this.itemForm,
      h("div", { class: "filter-search" }, field("Text", search)),
      pick("task", "Task", [["", "any"], ...[...this.steps.keys()].map((task) => [task, plain(task, 80)])]),
      pick("step", "After step", [["", "the last"], ...steps.map((step) => [String(step), stepName(step)])]),
      pick("correct", "Answer", [
        ["", "any"],
        ["1", "right"],
        ["0", "wrong"],
      ]),
      [...this.steps.values()].some((own) => own.length > 1)
        ? pick("change", "Against the first", [
            ["", "any"],
            ["changed", "changed"],
            ["learned", "learned"],
            ["lost", "lost"],
          ])
        : null,
    );
  }

  change(changes) {
    const params = Object.fromEntries(this.params);
    delete params.offset;
    this.params = new URLSearchParams(
      Object.entries({ ...params, ...changes }).filter(([, one]) => one !== "" && one !== null),
    );
    go(link(["evaluation"], this.params), { quiet: true });
    this.items();
  }

  async items() {
    if (!this.itemForm.children.length) this.drawItemForm();
    const params = this.params;
    const offset = Number(params.get("offset")) || 0;
    const serial = (this.serial = (this.serial ?? 0) + 1);
    let answer;
    try {
      answer = await get(`/api/runs/${this.run}/evaluation/items`, {
        task: params.get("task"),
        step: params.get("step"),
        correct: params.get("correct"),
        change: params.get("change"),
        q: params.get("q"),
        offset,
        limit: ITEMS,
      });
    } catch (error) {
      put(this.itemList, h("p", { class: "notice bad" }, error.message));
      return;
    }
    if (serial !== this.serial) return;
    const { total, rows } = answer;
    const turn = (text, to, enabled) =>
      h(
        "button",
        { type: "button", class: "button", disabled: !enabled, onclick: () => this.change({ offset: to || "" }) },
        text,
      );
    put(
      this.itemList,
      ...(rows.length ? rows.map(item) : [h("p", { class: "panel empty" }, "No item fits these filters.")]),
      h(
        "div",
        { class: "row spread" },
        h(
          "span",
          { class: "soft num" },
          rows.length ? `${count(offset + 1)} to ${count(offset + rows.length)} of ${count(total)}` : "",
        ),
        h(
          "div",
          { class: "row" },
          turn("Back", offset - ITEMS, offset > 0),
          turn("Next", offset + ITEMS, offset + rows.length < total),
        ),
      ),
    );
  }

  async update(parts, params) {
    if (this.run !== this.frame.run.id) return false;
    this.params = params;
    if (this.itemForm) {
      this.itemForm.replaceChildren();
      await this.items();
    }
    return true;
  }

  async grow(id) {
    if (id !== this.frame.run.id || this.root.contains(document.activeElement)) return;
    const fresh = await get(`/api/runs/${id}/evaluation`);
    if (JSON.stringify(fresh) !== JSON.stringify(this.data)) await this.load();
  }

  leave() {
    for (const chart of this.drawn) chart.destroy();
    this.drawn = [];
  }
}

/** A number with its interval, where there is one. */
function rate(one, format = percent) {
  if (!one) return "–";
  const interval = one.low !== null && one.high !== null ? ` ${format(one.low)} to ${format(one.high)}` : "";
  return [h("b", {}, format(one.rate)), interval ? h("span", { class: "soft small nowrap" }, interval) : null];
}

/** A table whose first column, or those before "After step", are texts and the rest numbers; a row is its cells, or a `tr`. */
function table(label, names, rows, texts = names.indexOf("After step") < 0 ? 1 : names.indexOf("After step")) {
  const row = (cells) =>
    h(
      "tr",
      {},
      cells.map((cell, index) =>
        index ? h("td", { class: index < texts ? "" : "num" }, cell) : h("th", { scope: "row" }, cell),
      ),
    );
  return h(
    "div",
    { class: "panel scroll", tabindex: "0", role: "region", "aria-label": label },
    h(
      "table",
      { class: "num" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          names.map((name, index) => h("th", { scope: "col", class: index < texts ? "" : "num" }, name)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((one) => (Array.isArray(one) ? row(one) : one)),
      ),
    ),
  );
}

/** Rows of results, where those of a setup follow one another and share the cells that name it. */
function inSetups(rows, cells, second = (row) => (row.opponent === null ? "none" : inline(row.opponent, 40))) {
  return [...group(rows, (row) => row.setup).values()].flatMap((own) =>
    own.map((row, index) =>
      h(
        "tr",
        {},
        index
          ? null
          : [
              h("th", { scope: "rowgroup", rowspan: String(own.length) }, inline(row.game, 50)),
              h("td", { rowspan: String(own.length) }, second(row)),
            ],
        cells(row).map((cell) => h("td", { class: "num" }, cell)),
      ),
    ),
  );
}

/** How the probabilities behind an exploitability were found. */
const METHODS = {
  exact: () => "known probabilities",
  scored: () => "probabilities of the replies",
  sampled: (row) => `${count(row.samples ?? 0)} replies in each state`,
};

/** What a table of payoffs is, by its kind. */
const TABLES = {
  tournament: ({ episodes, seed }) => ({
    title: "Tournament",
    note: `Mean return of the row's player against the column's with its 95% interval, and Elo. ${count(episodes ?? 0)} games a pair, seed ${seed ?? "not known"}.`,
  }),
  "past selves": ({ step }) => ({
    title: "Past selves",
    note: `Mean return of the policy on its way to a step (row) against an earlier self (column), as the checkpoint of step ${count(step)} has it; n is the number of games.`,
  }),
  population: ({ solver }) => ({
    title: "Population",
    note: `Exact mean return of the row's policy against the column's, and the shares of the ${plain(solver, 20)} mixture.`,
  }),
};

/** The past selves of a run with their ratings. */
function pastSelves({ game, ratings }) {
  return table(
    `Past selves in ${plain(game, 60)}: ratings`,
    ["Policy", "Elo", "Games against it", "Won by the policy", "Plays on"],
    ratings.map((one) => [
      inline(one.name, 40),
      value(Math.round(one.rating)),
      one.games === null ? "–" : count(one.games),
      percent(one.win_rate),
      one.plays === null ? "–" : one.plays ? "yes" : "no",
    ]),
  );
}

function stepName(step) {
  return step === null || step === UNKNOWN ? "not known" : count(step);
}

function group(rows, key) {
  const groups = new Map();
  for (const row of rows) groups.set(key(row), [...(groups.get(key(row)) ?? []), row]);
  return groups;
}

/** How often the policy bets or calls at an information state, beside what an equilibrium may do. */
function kuhnRow(row) {
  const [low, high] = row.equilibrium ?? [null, null];
  const family = low === null ? "" : low === high ? percent(low) : `${percent(low)} to ${percent(high)}`;
  return h(
    "div",
    { class: "kuhn-row" },
    h("span", { class: "kuhn-name" }, inline(spokenState(row.information_state), 60)),
    h(
      "span",
      {
        class: "kuhn-bar",
        role: "img",
        "aria-label": `bets or calls ${percent(row.bet_probability)}${family ? `, equilibrium ${family}` : ""}`,
      },
      h("i", { class: "kuhn-share", style: { "--share": row.bet_probability } }),
      low === null ? null : h("i", { class: "kuhn-family", style: { "--low": low, "--high": Math.max(high, low) } }),
    ),
    h("b", {}, percent(row.bet_probability)),
    h("span", { class: "soft small" }, family),
  );
}

function actionsOf(state) {
  return (state.split("/").at(-1).split(":")[1] ?? "").split(",").filter(Boolean);
}

/** The order of the states of a player: by what was done before, then by the card. */
function byCard(one, other) {
  const key = ({ information_state: state }) =>
    `${actionsOf(state).length}${actionsOf(state).join()}${"JQK".indexOf(state.split("/").at(-1)[0])}`;
  return key(one) < key(other) ? -1 : 1;
}

/** Who decides at an information state. */
function mover(state) {
  return actionsOf(state).length % 2;
}

/** "Q-:check,bet" -> "Q after check, bet". */
function spokenState(state) {
  const card = state.split("/").at(-1).split(":")[0].replace(/-$/, "");
  const actions = actionsOf(state);
  return actions.length ? `${card} after ${actions.join(", ")}` : `${card}, first to act`;
}

/** Ratings as points with their intervals on one line of numbers. */
function ratingPlot(ratings) {
  const low = Math.min(...ratings.map((one) => one.low ?? one.rating));
  const high = Math.max(...ratings.map((one) => one.high ?? one.rating));
  const room = (high - low) * 0.05 || 1;
  const place = (number) => ((number - low + room) / (high - low + 2 * room)) * 100;
  const sorted = [...ratings].sort((a, b) => b.rating - a.rating);
  return h(
    "ul",
    { class: "ratings num" },
    sorted.map((one) =>
      h(
        "li",
        {},
        h("span", { class: "rating-name" }, inline(one.name, 30)),
        svg(
          "svg",
          { viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" },
          svg("line", { class: "axis", x1: 0, x2: 100, y1: 6, y2: 6 }),
          one.low === null || one.low === undefined
            ? null
            : svg("line", { class: "interval", x1: place(one.low), x2: place(one.high), y1: 6, y2: 6 }),
          svg("line", { class: "point", x1: place(one.rating), x2: place(one.rating), y1: 1, y2: 11 }),
        ),
        h("b", {}, value(Math.round(one.rating * 10) / 10)),
        h(
          "span",
          { class: "soft small nowrap" },
          one.low === null || one.low === undefined
            ? ""
            : `${value(Math.round(one.low))} to ${value(Math.round(one.high))}`,
        ),
      ),
    ),
  );
}

function item(row) {
  const grade = (one) => h("span", { class: `tag ${one.correct ? "good" : "bad"}` }, one.correct ? "right" : "wrong");
  const side = (title, one) =>
    h(
      "div",
      { class: "side-by" },
      h(
        "div",
        { class: "row" },
        h("h3", {}, title),
        grade(one),
        one.truncated ? h("span", { class: "tag" }, "cut off") : null,
        h(
          "span",
          { class: "soft small" },
          one.extracted === null || one.extracted === undefined
            ? "no answer found"
            : ["answer ", inline(one.extracted, 80)],
        ),
      ),
      block(one.reply, { empty: "No reply." }),
    );
  const after = (one) => (one.step === null ? "Step not known" : `After step ${count(one.step)}`);
  const changed = row.before && row.before.correct !== row.correct;
  return h(
    "details",
    {
      class: "panel item",
      ontoggle: (event) => {
        if (!event.target.open || event.target.children.length > 1) return;
        event.target.append(
          h(
            "div",
            { class: "pad stack tight" },
            h("div", {}, h("h3", {}, "Prompt"), block(row.prompt)),
            h("p", {}, h("b", {}, "Right answer: "), inline(row.gold, 200)),
            row.before
              ? h(
                  "div",
                  { class: "two" },
                  side(row.before.step === 0 ? "Before training" : after(row.before), row.before),
                  side(after(row), row),
                )
              : side(after(row), row),
            row.patterns?.length || row.labelled < row.reply.length
              ? h(
                  "p",
                  { class: "row" },
                  h(
                    "span",
                    { class: "soft small" },
                    row.labelled < row.reply.length
                      ? `Patterns in the first ${count(row.labelled)} characters`
                      : "Patterns",
                  ),
                  row.patterns.map((name) => h("span", { class: "tag" }, inline(name, 40))),
                )
              : null,
          ),
        );
      },
    },
    h(
      "summary",
      { class: "row" },
      grade(row),
      changed ? h("span", { class: "tag accent" }, row.correct ? "learned" : "lost") : null,
      h(
        "span",
        { class: "soft small nowrap item-name" },
        inline(row.task, 40),
        " ",
        inline(row.item, 30),
        row.sample ? `, sample ${row.sample + 1}` : "",
      ),
      h("span", { class: "item-prompt" }, inline(row.prompt, 160)),
    ),
  );
}
