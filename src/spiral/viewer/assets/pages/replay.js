// One game, turn by turn: the board beside what the player saw, thought and answered, and what it was credited.

import { ApiError, episodePath, get } from "../lib/api.js";
import { h, put, segments, toast } from "../lib/dom.js";
import { count, plural, signed } from "../lib/format.js";
import { gameLink, go, link } from "../lib/route.js";
import { notices } from "../lib/runs.js";
import { block, inline, plain } from "../lib/text.js";
import { drawBoard } from "../parts/board.js";
import { isMistake, judgement } from "../parts/judgement.js";
import { TINTS, legend, reply, tokenTable } from "../parts/tokens.js";
import { listParams } from "./games.js";

const OUTCOMES = {
  finished: "finished",
  illegal_move: "ended by an illegal move",
  truncated: "cut off",
  not_played: "not played",
};
const ASKED = 10; // how often the judging of a game that takes long is asked for, some seconds each time
const STOPS = { stop: null, length: "cut off: its budget was spent", context: "cut off: the context was full" };

export async function show(root, frame, parts, params) {
  const view = new Replay(root, frame);
  await view.load(parts, params);
  return view;
}

class Replay {
  constructor(root, frame) {
    this.root = root;
    this.frame = frame;
    this.tint = localStorage.getItem("spiral-tint") in TINTS ? localStorage.getItem("spiral-tint") : "probability";
    this.open = { tokens: false, observation: true };
  }

  async load([, run, step, episode, turn = "0"], params) {
    if (run === undefined || step === undefined || episode === undefined)
      throw new ApiError("The address of a game names run, step and episode: #/game/0/12/3");
    this.address = { run, step, episode };
    this.params = params;
    this.game = await get(episodePath(run, step, episode));
    this.turn = this.clamp(turn);
    this.build();
    this.draw();
    if (this.game.judging) this.judgeOn(this.game);
  }

  /** Judging took longer than the page was to wait: ask on while the game is shown. */
  async judgeOn(game) {
    const { run, step, episode } = this.address;
    for (let asked = 0; game.judging && asked < ASKED && this.game === game && !this.left; asked += 1) {
      let answer;
      try {
        answer = await get(`${episodePath(run, step, episode)}/judgements`);
      } catch (error) {
        answer = { judging: false, judging_notes: [`The judging of the moves has ended: ${error.message}`] };
      }
      if (this.game !== game || this.left) return;
      answer.judgements?.forEach((judged, index) => {
        game.turns[index].judgement = judged;
      });
      if (answer.judgements) game.blunder = answer.blunder;
      game.judging = answer.judging;
      game.judging_notes =
        asked + 1 < ASKED
          ? answer.judging_notes
          : answer.judging_notes.map((note) => note.replace("and goes on", "so it was ended; load the page to go on"));
      this.drawJudged();
      if (this.detail.contains(document.activeElement)) this.drawStrip();
      else this.draw();
    }
  }

  leave() {
    this.left = true;
  }

  drawJudged() {
    this.worst = typeof this.game.blunder === "number" ? this.game.blunder : null;
    this.worstButton.hidden = this.worst === null;
    put(this.judged, notices(this.game.judging_notes ?? []));
  }

  clamp(turn) {
    const number = Math.trunc(Number(turn));
    return Number.isFinite(number) ? Math.min(this.game.turns.length, Math.max(0, number)) : 0;
  }

  build() {
    const { run, step, episode } = this.address;
    const game = this.game;
    const name = this.frame.runs.find((one) => one.id === run)?.name ?? run;
    this.frame.title(`${plain(game.game, 60)}, step ${step}, episode ${episode}`);
    const path = episodePath(run, step, episode);
    this.worstButton = h(
      "button",
      { type: "button", class: "button danger", onclick: () => this.go(this.worst) },
      "Worst move",
      h("kbd", {}, "w"),
    );
    this.judged = h("div", {});
    this.drawJudged();
    this.list = listParams(this.params);
    this.board = h("div", { class: "board" });
    this.boardNote = h("p", { class: "board-note soft small num" });
    this.strip = h("ol", { class: "strip", "aria-label": "Turns" });
    this.detail = h("div", { class: "stack detail" });
    this.place = h("span", { class: "num place", role: "status", "aria-live": "polite" });
    const move = (text, label, to) =>
      h("button", { type: "button", class: "button", "aria-label": label, onclick: () => this.go(to()) }, text);
    const tools = h(
      "div",
      { class: "row" },
      this.worstButton,
      h("button", { type: "button", class: "button", onclick: () => this.copyText(path) }, "Copy as text"),
      h("button", { type: "button", class: "button", onclick: () => this.copyLink() }, "Copy link"),
      h(
        "a",
        { class: "button", href: path, download: `${safeName(name)}-step-${step}-episode-${episode}.json` },
        "Download JSON",
      ),
    );
    const back = link(["games"], { ...(this.frame.runs.length > 1 ? { run } : {}), ...this.list });
    put(
      this.root,
      h(
        "p",
        { class: "crumbs small" },
        h("a", { href: back }, "Games"),
        h("span", { class: "soft" }, " / ", inline(name, 60), ` / step ${step} / episode ${episode}`),
      ),
      h(
        "div",
        { class: "head spread" },
        h("div", {}, h("h1", {}, inline(game.game, 100)), h("p", { class: "sub num" }, this.summary())),
        tools,
      ),
      notices(game.notices ?? []),
      this.judged,
      h(
        "div",
        { class: "replay" },
        h(
          "div",
          { class: "replay-side stack" },
          h("section", { class: "panel pad", "aria-label": "Board" }, this.board, this.boardNote),
          h(
            "section",
            { class: "panel pad turns", "aria-label": "Turns of the game" },
            h(
              "div",
              { class: "row spread" },
              h(
                "div",
                { class: "row" },
                move("«", "First turn", () => 0),
                move("←", "Turn before", () => this.turn - 1),
                move("→", "Turn after", () => this.turn + 1),
                move("»", "End of the game", () => game.turns.length),
              ),
              this.place,
            ),
            this.strip,
          ),
          this.players(),
        ),
        this.detail,
      ),
    );
  }

  summary() {
    const { outcome, turns, seed } = this.game;
    return [
      OUTCOMES[outcome] ?? outcome,
      plural(turns.length, "turn"),
      Number.isSafeInteger(seed) || typeof seed === "string" ? `seed ${seed}` : null,
    ]
      .filter(Boolean)
      .join(" · ");
  }

  players() {
    const game = this.game;
    const number = (value, digits = 2) =>
      h("td", { class: "num" }, value === null || value === undefined ? "–" : signed(value, digits));
    const advantages = game.policies.map((_, player) =>
      game.turns
        .filter((turn) => turn.player === player && turn.advantage !== null && turn.advantage !== undefined)
        .map((turn) => turn.advantage),
    );
    const range = (values) => {
      if (!values.length) return "–";
      const [low, high] = [Math.min(...values), Math.max(...values)];
      return high - low < 5e-3 ? signed(low) : `${signed(low)} to ${signed(high)}`;
    };
    return h(
      "section",
      { class: "panel scroll", tabindex: "0", role: "region", "aria-label": "Players" },
      h(
        "table",
        { class: "players" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ["Player", "Return", "Reward", "Baseline", "Advantage"].map((name, index) =>
              h("th", { scope: "col", class: index ? "num" : "" }, name),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          game.policies.map((policy, player) =>
            h(
              "tr",
              {},
              h(
                "th",
                { scope: "row" },
                h("span", { class: `p${player % 2}` }, `${player} `),
                inline(policy, 40),
                game.trainable[player] ? h("span", { class: "soft small" }, " learns") : null,
              ),
              number(game.returns[player]),
              number(game.rewards?.[player]),
              number(game.baselines?.[player]),
              h("td", { class: "num" }, range(advantages[player])),
            ),
          ),
        ),
      ),
    );
  }

  /** Show a turn; its address takes the place of the last one, so that "back" leaves the game. */
  go(turn) {
    this.turn = this.clamp(turn);
    const { run, step, episode } = this.address;
    go(`${gameLink(run, step, episode, this.turn)}${this.query()}`, { quiet: true });
    this.draw();
  }

  query() {
    const query = link([], this.params).split("?")[1];
    return query ? `?${query}` : "";
  }

  draw() {
    const { turns, states } = this.game;
    const turn = turns[this.turn] ?? null;
    const state = states[this.turn] ??
      states.at(-1) ?? {
        board: null,
        text: "This game cannot be loaded here, so its positions are not known.",
        actions_so_far: [],
      };
    this.place.textContent = turn
      ? `Turn ${this.turn + 1} of ${turns.length}`
      : `End, after ${plural(turns.length, "turn")}`;
    drawBoard(this.board, state.board, {
      text: state.text,
      legal: turn?.legal_actions ?? null,
      played: turn?.action ?? null,
      values: turn?.judgement?.values ?? null,
      best: turn?.judgement?.best ?? [],
    });
    const deals =
      this.turn === 0 && state.actions_so_far?.length
        ? `After ${state.actions_so_far.slice(0, 12).join(", ").slice(0, 200)}.`
        : "";
    put(
      this.boardNote,
      turn ? `Before player ${turn.player} decides. ` : "The end of the game. ",
      deals ? inline(deals, 200) : "",
    );
    this.drawStrip();
    put(this.detail, ...(turn ? this.turnParts(turn) : this.endParts()));
  }

  drawStrip() {
    const { run, step, episode } = this.address;
    const focused = this.strip.contains(document.activeElement);
    const entry = (index, label, text, classes) =>
      h(
        "li",
        {},
        h(
          "a",
          {
            href: `${gameLink(run, step, episode, index)}${this.query()}`,
            class: classes,
            "aria-current": index === this.turn ? "step" : null,
            "aria-label": label,
            title: label,
            onclick: (event) => {
              if (!event.metaKey && !event.ctrlKey) {
                event.preventDefault();
                this.go(index);
              }
            },
          },
          text,
        ),
      );
    put(
      this.strip,
      ...this.game.turns.map((turn, index) => {
        const fault =
          turn.action === null || turn.action === undefined
            ? "illegal"
            : isMistake(turn.judgement)
              ? index === this.worst
                ? "worst"
                : "mistake"
              : "";
        const said = { illegal: ", illegal", worst: ", the worst move", mistake: ", a mistake" }[fault] ?? "";
        return entry(
          index,
          `Turn ${index + 1}, player ${turn.player}: ${plain(turn.action ?? "no legal action", 60)}${said}`,
          String(index + 1),
          `p${turn.player % 2} ${fault}`,
        );
      }),
      entry(this.game.turns.length, "End of the game", "End", "end"),
    );
    const current = this.strip.querySelector("[aria-current]");
    if (focused) current?.focus();
  }

  turnParts(turn) {
    const thinking = (turn.tokens ?? []).filter((token) => token.part === "thinking");
    const answer = (turn.tokens ?? []).filter((token) => token.part !== "thinking");
    const tints = h("div", { class: "row spread tints" });
    const said = (title, content, extra) =>
      h("section", { class: "panel pad said" }, h("div", { class: "row spread" }, h("h3", {}, title), extra), content);
    const legal = turn.legal_actions;
    const cut = STOPS[turn.stop_reason];
    const thought = h("div", {});
    const answered = h("div", {});
    const tintLegend = h("div", {});
    const paint = () => {
      put(thought, reply(turn.thinking, thinking, this.tint, "No thought."));
      put(answered, reply(turn.answer, answer, this.tint, "No answer."));
      put(tintLegend, legend(this.tint, turn.tokens ?? []) ?? "");
    };
    this.tints = segments(
      "Colour of the tokens",
      Object.entries(TINTS).map(([key, tint]) => [key, tint.name]),
      this.tint,
      (tint) => {
        this.tint = tint;
        localStorage.setItem("spiral-tint", tint);
        paint();
      },
    );
    tints.append(
      h("div", { class: "row" }, h("span", { class: "soft small" }, "Tokens"), this.tints),
      turn.tokens?.length ? h("span", { class: "soft small num" }, plural(turn.tokens.length, "token")) : "",
    );
    paint();
    const remember = (name) => (event) => {
      this.open[name] = event.target.open;
    };
    return [
      h(
        "header",
        { class: "turn-head row" },
        h("h2", { class: `p${turn.player % 2}` }, `Player ${turn.player}`),
        h("span", { class: "soft" }, inline(this.game.policies[turn.player], 60)),
        turn.action === null || turn.action === undefined
          ? h("span", { class: "tag bad" }, "no legal action")
          : h("span", { class: "tag accent" }, "plays ", inline(turn.action, 80)),
        turn.advantage === null || turn.advantage === undefined
          ? null
          : h("span", { class: "tag num" }, `advantage ${signed(turn.advantage, 3)}`),
        turn.reward ? h("span", { class: "tag num" }, `reward ${signed(turn.reward)}`) : null,
        cut ? h("span", { class: "tag warn" }, cut) : null,
      ),
      h(
        "details",
        { class: "panel pad said", open: this.open.observation, ontoggle: remember("observation") },
        h("summary", {}, h("h3", {}, "Observation")),
        h(
          "div",
          { class: "tall", tabindex: "0", role: "region", "aria-label": "Observation" },
          block(turn.observation, { empty: "This player was shown nothing." }),
        ),
        legal?.length
          ? h(
              "p",
              { class: "legal small soft" },
              `Legal: `,
              legal.slice(0, 60).flatMap((action, index) => [index ? ", " : "", inline(action, 60)]),
              legal.length > 60 ? ` and ${count(legal.length - 60)} more` : "",
            )
          : null,
      ),
      turn.tokens?.length ? [tints, tintLegend] : null,
      said("Thinking", thought),
      said("Answer", answered),
      turn.judgement ? judgement(turn.judgement, turn.action) : null,
      turn.tokens?.length
        ? h(
            "details",
            {
              class: "panel pad said",
              open: this.open.tokens,
              ontoggle: (event) => {
                remember("tokens")(event);
                if (event.target.open && event.target.children.length < 2) event.target.append(tokenTable(turn.tokens));
              },
            },
            h("summary", {}, h("h3", {}, "Numbers of the tokens")),
          )
        : null,
    ]
      .flat()
      .filter(Boolean);
  }

  endParts() {
    const { returns, outcome, turns, policies } = this.game;
    const last = turns.at(-1);
    const best = Math.max(...returns);
    const winners = returns.flatMap((value, player) => (value === best ? [player] : []));
    const said =
      outcome === "illegal_move" && last
        ? `Player ${last.player} gave no legal action in turn ${turns.length}, which ends the game.`
        : returns.length === 2 && winners.length === 1
          ? `Player ${winners[0]} wins.`
          : returns.length > 1 && winners.length === returns.length
            ? "A draw."
            : `The game ${OUTCOMES[outcome] ?? outcome}.`;
    const mistakes = turns.map((turn, index) => [turn, index]).filter(([turn]) => isMistake(turn.judgement));
    return [
      h("header", { class: "turn-head row" }, h("h2", {}, "End of the game")),
      h(
        "section",
        { class: "panel pad" },
        h("p", { class: "verdict" }, said),
        h(
          "p",
          { class: "num soft" },
          policies.flatMap((policy, player) => [player ? ", " : "", `player ${player} `, signed(returns[player])]),
        ),
      ),
      h(
        "section",
        { class: "panel pad" },
        h("h3", {}, "Mistakes"),
        turns.some((turn) => turn.judgement)
          ? mistakes.length
            ? h(
                "ul",
                { class: "mistakes num" },
                mistakes
                  .sort((a, b) => b[0].judgement.regret - a[0].judgement.regret)
                  .map(([turn, index]) =>
                    h(
                      "li",
                      {},
                      h(
                        "button",
                        { type: "button", class: "quiet", onclick: () => this.go(index) },
                        `Turn ${index + 1}: player ${turn.player} played `,
                        inline(turn.action ?? "nothing legal", 40),
                        ` and lost ${signed(turn.judgement.regret).slice(1)}`,
                      ),
                    ),
                  ),
              )
            : h("p", { class: "soft" }, "None: every judged move was a best one.")
          : h(
              "p",
              { class: "soft" },
              "Theory does not judge the moves of this game: its tree is too large, or its text has no bounds.",
            ),
      ),
    ];
  }

  async copyText(path) {
    try {
      const response = await fetch(`${path}/text`);
      if (!response.ok) throw new ApiError("The text of the game could not be read.");
      await navigator.clipboard.writeText(await response.text());
      toast("The game is in the clipboard.");
    } catch (error) {
      toast(error instanceof ApiError ? error.message : "The browser does not allow copying.");
    }
  }

  async copyLink() {
    try {
      await navigator.clipboard.writeText(location.href);
      toast("The link to this turn is in the clipboard.");
    } catch {
      toast("The browser does not allow copying; the address of the page is the link.");
    }
  }

  /** The game before or after in the list that led here, or else in the same step. */
  async neighbour(by) {
    const { run, step, episode } = this.address;
    const at = this.params.get("at");
    try {
      if (at === null) {
        const next = Number(episode) + by;
        if (next < 0) throw new ApiError("");
        await get(episodePath(run, step, next));
        go(gameLink(run, step, next));
        return;
      }
      const index = Number(at) + by;
      const row =
        index < 0
          ? null
          : (await get(`/api/runs/${run}/episodes`, { sort: "step", desc: 1, ...this.list, offset: index, limit: 1 }))
              .rows[0];
      if (!row) throw new ApiError("");
      go(`${gameLink(run, row.step, row.episode)}?${new URLSearchParams({ ...this.list, at: index })}`);
    } catch {
      toast(by < 0 ? "This is the first game." : "This is the last game.");
    }
  }

  key(event) {
    const to = {
      ArrowRight: this.turn + 1,
      j: this.turn + 1,
      ArrowLeft: this.turn - 1,
      k: this.turn - 1,
      Home: 0,
      End: this.game.turns.length,
      w: this.worst ?? undefined,
    }[event.key];
    if (event.target.closest(".scroll, .tall") && event.key.startsWith("Arrow")) return false;
    if (to !== undefined) this.go(to);
    else if (event.key === "w") toast("No move of this game is known to be a mistake.");
    else if (event.key === "c" && this.tints?.isConnected) {
      const names = Object.keys(TINTS);
      this.tints.choose(names[(names.indexOf(this.tint) + 1) % names.length]);
    } else if (event.key === "[") this.neighbour(-1);
    else if (event.key === "]") this.neighbour(1);
    else return false;
    return true;
  }

  async update(parts, params) {
    const [, run, step, episode, turn = "0"] = parts;
    this.params = params;
    if (run === this.address.run && step === this.address.step && episode === this.address.episode) {
      this.turn = this.clamp(turn);
      this.draw();
      return true;
    }
    return false;
  }
}

function safeName(name) {
  return (
    String(name)
      .replace(/[^A-Za-z0-9._-]+/g, "-")
      .slice(0, 60) || "run"
  );
}
