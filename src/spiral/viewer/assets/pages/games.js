// The table of episodes: filters, search, sorting and paging, all kept in the address and done by the server.

import { get } from "../lib/api.js";
import { debounce, field, h, put, select } from "../lib/dom.js";
import { count, plural, signed } from "../lib/format.js";
import { gameLink, go, link } from "../lib/route.js";
import { notices } from "../lib/runs.js";
import { inline, plain } from "../lib/text.js";

const LIMIT = 50;
const FILTERS = [
  "game",
  "opponent",
  "outcome",
  "illegal",
  "player",
  "result",
  "step_min",
  "step_max",
  "turns_min",
  "tokens_min",
  "q",
];
const COLUMNS = [
  { key: "step", title: "Step", sort: true, number: true },
  { key: "episode", title: "Episode", number: true },
  { key: "game", title: "Game", sort: true },
  { key: "players", title: "Players" },
  { key: "return", title: "Returns", sort: true },
  { key: "outcome", title: "Outcome" },
  { key: "turns", title: "Turns", sort: true, number: true },
  { key: "tokens", title: "Tokens", sort: true, number: true },
];
const OUTCOMES = { finished: "finished", illegal_move: "illegal move", truncated: "cut off", not_played: "not played" };

export async function show(root, frame, parts, params) {
  const view = new Games(root, frame);
  view.build(params);
  await view.load(params);
  return view;
}

/** The parameters of the list that an address names, for the games before and after one. */
export function listParams(params) {
  const kept = {};
  for (const key of [...FILTERS, "sort", "desc"]) if (params.get(key)) kept[key] = params.get(key);
  return kept;
}

class Games {
  constructor(root, frame) {
    this.root = root;
    this.frame = frame;
    this.at = -1; // the row that j and k chose
  }

  build(params) {
    this.count = h("p", { class: "sub num", role: "status" });
    this.notes = h("div", {});
    this.form = h("form", {
      class: "filter-form",
      role: "search",
      "aria-label": "Filters",
      onsubmit: (event) => event.preventDefault(),
    });
    this.table = h("div", { class: "panel scroll", tabindex: "0", role: "region", "aria-label": "Episodes" });
    this.pages = h("nav", { class: "row spread pages", "aria-label": "Pages of the table" });
    put(
      this.root,
      h("div", { class: "head" }, h("h1", {}, "Games"), this.count),
      this.notes,
      this.form,
      this.table,
      this.pages,
    );
    this.params = params;
    this.drawFilters();
  }

  drawFilters() {
    this.controls = {};
    const keep = (key, label, control) => {
      this.controls[key] = control;
      return field(label, control);
    };
    const pick = (key, label) =>
      keep(
        key,
        label,
        select([], "", (value) => this.change({ [key]: value }), { name: key }),
      );
    const typed = (key, label, properties) => {
      const oninput = debounce(() => this.change({ [key]: control.value.trim() }), 350);
      const control = h("input", { name: key, oninput, ...properties });
      return keep(key, label, control);
    };
    const number = (key, label) => typed(key, label, { type: "number", min: "0", inputmode: "numeric" });
    this.more = h(
      "details",
      { class: "more-filters" },
      h("summary", { class: "soft small" }, "More filters"),
      h(
        "div",
        { class: "filters" },
        pick("opponent", "Opponent"),
        pick("outcome", "Outcome"),
        pick("illegal", "Illegal moves"),
        pick("player", "Player"),
        pick("result", "Result"),
        number("step_min", "Step from"),
        number("step_max", "Step to"),
        number("turns_min", "Turns, at least"),
        number("tokens_min", "Tokens, at least"),
        h("button", { type: "button", class: "button", onclick: () => this.clear() }, "Clear"),
      ),
    );
    const search = typed("q", "Text in replies", { type: "search", placeholder: "Any words that a player wrote" });
    put(
      this.form,
      h("div", { class: "filters" }, h("div", { class: "filter-search" }, search), pick("game", "Game")),
      this.more,
    );
    this.more.open = matchMedia("(min-width: 761px)").matches;
    this.players = 2;
  }

  /** Show the parameters in the filters, but for the one that is being typed in. */
  showFilters(choices) {
    const params = this.params;
    const listed = (key, name = (value) => plain(value, 80)) => {
      const values = [...new Set([...choices[key], params.get(key) ?? ""])].filter((value) => value !== "");
      return values.map((value) => [value, name(value)]);
    };
    const options = {
      game: listed("game"),
      opponent: listed("opponent"),
      outcome: listed("outcome", (value) => OUTCOMES[value] ?? plain(value, 80)),
      illegal: [
        ["1", "with"],
        ["0", "without"],
      ],
      player: Array.from({ length: this.players }, (_, player) => [String(player), String(player)]),
      result: [
        ["win", "wins"],
        ["draw", "draws"],
        ["loss", "loses"],
      ],
    };
    for (const [key, control] of Object.entries(this.controls)) {
      if (control === document.activeElement && control.tagName === "INPUT") continue;
      if (options[key]) {
        const pairs = [["", "any"], ...options[key]];
        if (JSON.stringify(pairs) !== control.dataset.pairs) {
          control.dataset.pairs = JSON.stringify(pairs);
          put(
            control,
            pairs.map(([value, label]) => h("option", { value }, label)),
          );
        }
      }
      control.value = params.get(key) ?? "";
    }
    if (FILTERS.slice(1).some((key) => key !== "q" && params.get(key))) this.more.open = true;
  }

  /** Change parameters and go there; the table starts at its first row again. */
  change(changes) {
    const params = Object.fromEntries(this.params);
    delete params.offset;
    const address = link(["games"], { ...params, ...changes });
    if (address !== location.hash) go(address);
  }

  clear() {
    go(link(["games"], { run: this.params.get("run") }));
  }

  async load(params) {
    this.params = params;
    this.loading?.abort();
    this.loading = new AbortController();
    const signal = this.loading.signal;
    const run = this.frame.run;
    const asked = {
      offset: params.get("offset") ?? 0,
      limit: LIMIT,
      sort: params.get("sort") ?? "step",
      desc: params.get("desc") ?? "1",
    };
    for (const key of FILTERS) asked[key] = params.get(key);
    const waiting = setTimeout(() => this.root.classList.add("waiting"), 150);
    try {
      const answer = await get(`/api/runs/${run.id}/episodes`, asked, { signal });
      if (signal.aborted) return;
      this.players = Math.max(this.players, ...answer.rows.map((row) => row.policies.length));
      this.showFilters(answer.choices);
      put(this.notes, notices(run.notices, answer.notices ?? []));
      this.draw(answer, Number(asked.offset) || 0, asked);
    } catch (error) {
      if (error.name === "AbortError") return;
      put(this.table, h("p", { class: "notice bad" }, error.message));
      this.pages.replaceChildren();
    } finally {
      clearTimeout(waiting);
      if (!signal.aborted) this.root.classList.remove("waiting");
    }
  }

  draw({ total, rows }, offset, { sort, desc }) {
    this.count.textContent = plural(total, "game");
    const filtered = FILTERS.some((key) => this.params.get(key));
    if (!rows.length) {
      put(
        this.table,
        h(
          "p",
          { class: "empty" },
          filtered
            ? "No game fits these filters."
            : "No game has been written yet. `run.episodes_every` says which steps keep their games.",
        ),
      );
      this.pages.replaceChildren();
      return;
    }
    const searching = Boolean(this.params.get("q"));
    const head = h(
      "tr",
      {},
      COLUMNS.map((column) => {
        if (!column.sort)
          return h("th", { scope: "col", class: `c-${column.key} ${column.number ? "num" : ""}` }, column.title);
        const now = sort === column.key;
        const down = desc === "1";
        return h(
          "th",
          {
            scope: "col",
            class: `c-${column.key} ${column.number ? "num" : ""}`,
            "aria-sort": now ? (down ? "descending" : "ascending") : null,
          },
          h(
            "button",
            {
              type: "button",
              class: "sort",
              onclick: () => this.change({ sort: column.key, desc: now && down ? "0" : "1" }),
            },
            column.title,
            h("span", { class: "arrow", "aria-hidden": "true" }, now ? (down ? "↓" : "↑") : ""),
          ),
        );
      }),
    );
    put(
      this.table,
      h(
        "table",
        { class: "episodes" },
        h("caption", { class: "sr" }, "Episodes"),
        h("thead", {}, head),
        h(
          "tbody",
          {},
          rows.map((row, index) => this.row(row, offset + index, searching)),
        ),
      ),
    );
    const first = offset + 1;
    const last = offset + rows.length;
    const turn = (text, to, enabled, key) =>
      h(
        "button",
        {
          type: "button",
          class: "button",
          disabled: !enabled,
          "data-key": key,
          onclick: () => go(link(["games"], { ...Object.fromEntries(this.params), offset: to || "" })),
        },
        text,
      );
    put(
      this.pages,
      h("span", { class: "soft num" }, `${count(first)} to ${count(last)} of ${count(total)}`),
      h(
        "div",
        { class: "row" },
        turn("Back", Math.max(0, offset - LIMIT), offset > 0, "back"),
        turn("Next", offset + LIMIT, last < total, "next"),
      ),
    );
    this.at = -1;
  }

  row(row, index, searching) {
    const query = new URLSearchParams({ ...listParams(this.params), at: index });
    const address = `${gameLink(this.frame.run.id, row.step, row.episode)}?${query}`;
    const name = (policy, player) => h("span", { class: `p${player}` }, inline(policy, 24));
    const cells = {
      step: h("a", { href: address }, count(row.step)),
      episode: String(row.episode),
      game: [
        inline(row.game, 60),
        searching && row.excerpt ? h("div", { class: "excerpt soft" }, inline(row.excerpt, 220)) : null,
      ],
      players: selfPlay(row)
        ? h("span", { class: "soft" }, "self-play")
        : row.policies.flatMap((policy, player) =>
            player ? [h("span", { class: "soft" }, " – "), name(policy, player)] : [name(policy, player)],
          ),
      return: h(
        "span",
        { class: "returns" },
        row.returns.flatMap((value, player) => [
          h("span", { class: `p${player % 2} ${value > 0 ? "won" : ""}` }, signed(value)),
          " ",
        ]),
      ),
      outcome:
        row.illegal_player !== null && row.illegal_player !== undefined
          ? h("span", { class: "tag bad" }, `illegal, player ${row.illegal_player}`)
          : row.outcome === "finished"
            ? h("span", { class: "soft" }, "finished")
            : h("span", { class: "tag warn" }, OUTCOMES[row.outcome] ?? inline(row.outcome, 30)),
      turns: count(row.turns),
      tokens: count(row.tokens),
    };
    return h(
      "tr",
      {
        onclick: (event) => {
          if (!event.target.closest("a") && !getSelection().toString()) location.hash = address;
        },
      },
      COLUMNS.map((column) => h("td", { class: `c-${column.key} ${column.number ? "num" : ""}` }, cells[column.key])),
    );
  }

  key(event) {
    const rows = [...this.table.querySelectorAll("tbody tr")];
    if ((event.key === "j" || event.key === "k") && rows.length) {
      this.at = Math.min(rows.length - 1, Math.max(0, this.at + (event.key === "j" ? 1 : -1)));
      rows[this.at].querySelector("a").focus();
      return true;
    }
    const page = { "[": "back", "]": "next" }[event.key];
    if (page) {
      this.pages.querySelector(`[data-key=${page}]`)?.click();
      return true;
    }
    return false;
  }

  async update(parts, params) {
    await this.load(params);
    return true;
  }

  grow(id) {
    if (id === this.frame.run.id && !this.table.contains(document.activeElement)) return this.load(this.params);
    return null;
  }

  leave() {
    this.loading?.abort();
  }
}

function selfPlay(row) {
  return row.policies.length > 1 && new Set(row.policies).size === 1 && row.trainable.every(Boolean);
}
