// Sit down against a checkpoint: a click on the board or a text is a move, and its thought is shown after it moved.

import { ApiError, get, post, remove } from "../lib/api.js";
import { field, h, put, select } from "../lib/dom.js";
import { signed } from "../lib/format.js";
import { notices } from "../lib/runs.js";
import { block, inline, plain } from "../lib/text.js";
import { drawBoard } from "../parts/board.js";

const POLL_MS = 300;

export async function show(root, frame, parts, params) {
  const view = new Play(root, frame, params);
  await view.load();
  return view;
}

class Play {
  constructor(root, frame, params) {
    this.root = root;
    this.frame = frame;
    this.params = params;
    this.session = null;
    this.left = false;
  }

  async load() {
    this.choices = await get("/api/play/choices");
    const { checkpoints, games } = this.choices;
    this.form = h("form", {
      class: "filters play-form",
      onsubmit: (event) => {
        event.preventDefault();
        this.start();
      },
    });
    this.message = h("div", { role: "status" });
    this.table = h("div", { class: "play", hidden: true });
    put(
      this.root,
      h(
        "div",
        { class: "head" },
        h("h1", {}, "Play"),
        h("p", { class: "sub" }, "A game against a checkpoint of the run."),
      ),
      notices(this.choices.notices ?? []),
      this.form,
      this.message,
      this.table,
    );
    if (!checkpoints.length || !games.length) {
      this.form.hidden = true;
      put(
        this.message,
        h(
          "p",
          { class: "panel empty" },
          checkpoints.length
            ? "This run names no game that can be played here."
            : "No checkpoint has been written yet. `run.checkpoint_every` says when one is due.",
        ),
      );
      return;
    }
    const name = (id) => this.frame.runs.find((run) => run.id === String(id))?.name ?? id;
    const several = new Set(checkpoints.map((one) => one.run)).size > 1;
    const own = checkpoints.filter((one) => String(one.run) === this.frame.run.id);
    const first = checkpoints.indexOf(own.at(-1) ?? checkpoints.at(-1));
    this.checkpoint = select(
      checkpoints.map((one, index) => [
        String(index),
        `${several ? `${plain(name(one.run), 40)}, ` : ""}step ${one.step}`,
      ]),
      String(first),
      () => {},
      { name: "checkpoint" },
    );
    this.gameSelect = select(
      games.map((game) => [game, plain(game, 80)]),
      this.params.get("game") ?? games[0],
      () => {},
      { name: "game" },
    );
    this.seat = select(
      [
        ["0", "player 0, who begins"],
        ["1", "player 1"],
      ],
      "0",
      () => {},
      { name: "seat" },
    );
    this.seed = h("input", { type: "number", name: "seed", min: "0", step: "1", placeholder: "any" });
    this.thinking = h("input", { type: "checkbox", name: "thinking", checked: true });
    this.form.append(
      field("Checkpoint", this.checkpoint),
      field("Game", this.gameSelect),
      field("You are", this.seat),
      field("Seed", this.seed),
      h("label", { class: "check" }, this.thinking, "Show its thoughts"),
      h("button", { type: "submit", class: "button primary" }, "Start a game"),
    );
  }

  async start() {
    await this.end();
    const chosen = this.choices.checkpoints[Number(this.checkpoint.value)];
    const seed = this.seed.value === "" ? Math.floor(Math.random() * 2 ** 31) : Number(this.seed.value);
    put(
      this.message,
      h("p", { class: "soft waiting-text" }, "The checkpoint is being loaded. This takes some seconds."),
    );
    this.table.hidden = true;
    try {
      const { session } = await post("/api/play", {
        run: chosen.run,
        step: chosen.step,
        game: this.gameSelect.value,
        seat: Number(this.seat.value),
        seed,
        thinking: this.thinking.checked,
      });
      if (this.left) {
        remove(`/api/play/${session}`).catch(() => {});
        return;
      }
      this.session = session;
      this.seat0 = Number(this.seat.value);
      this.build();
      await this.poll();
    } catch (error) {
      this.fail(error);
    }
  }

  build() {
    this.board = h("div", { class: "board" });
    this.status = h("h2", { tabindex: "-1" });
    this.observation = h("div", {});
    this.log = h("ol", { class: "play-log stack tight", "aria-live": "polite", "aria-label": "Moves" });
    this.input = h("textarea", {
      rows: "2",
      name: "move",
      "aria-label": "Your move as text",
      placeholder: "Your move",
      onkeydown: (event) => {
        if (event.key === "Enter" && !event.shiftKey) {
          event.preventDefault();
          this.move(this.input.value.trim());
        }
      },
    });
    this.send = h("button", { type: "submit", class: "button primary" }, "Play");
    this.legal = h("p", { class: "soft small legal" });
    this.entry = h(
      "form",
      {
        class: "stack tight",
        onsubmit: (event) => {
          event.preventDefault();
          this.move(this.input.value.trim());
        },
      },
      field("Your move as text", this.input),
      h(
        "div",
        { class: "row" },
        this.send,
        h("button", { type: "button", class: "button", onclick: () => this.giveUp() }, "Leave the game"),
      ),
      this.legal,
    );
    put(
      this.table,
      h(
        "div",
        { class: "stack" },
        h("section", { class: "panel pad stack tight", "aria-label": "Board" }, this.status, this.board),
        h("section", { class: "panel pad", "aria-label": "Your move" }, this.entry),
      ),
      h(
        "div",
        { class: "stack" },
        h("section", { class: "stack tight" }, h("h2", {}, "Moves"), this.log),
        h(
          "details",
          { class: "panel pad said" },
          h("summary", {}, h("h3", {}, "What you are shown")),
          this.observation,
        ),
      ),
    );
    this.logged = -1;
    this.table.hidden = false;
  }

  async poll() {
    while (this.session && !this.left) {
      const session = this.session;
      const state = await get(`/api/play/${session}`);
      if (session !== this.session) return;
      if (state.error && !state.ready) throw new ApiError(state.error);
      if (state.ready) {
        put(this.message, state.error ? h("p", { class: "notice" }, inline(state.error, 600)) : null);
        this.draw(state);
        if (state.your_turn || state.over) return;
      }
      await new Promise((resolve) => {
        setTimeout(resolve, POLL_MS);
      });
    }
  }

  draw(state) {
    this.state = state;
    const mine = state.your_turn && !state.over;
    this.status.textContent = state.over ? this.verdict(state) : mine ? "Your turn" : "It is thinking";
    this.status.className = state.over ? "" : mine ? "your-turn" : "waiting-text";
    drawBoard(this.board, state.board, {
      text: state.observation,
      legal: mine ? (state.legal_actions ?? []) : [],
      play: mine ? (action) => this.move(action) : null,
    });
    put(this.observation, block(state.observation));
    this.entry.hidden = state.over;
    this.input.disabled = !mine;
    this.send.disabled = !mine;
    const legal = state.legal_actions;
    put(
      this.legal,
      ...(mine && legal?.length
        ? [
            "Legal: ",
            ...legal.slice(0, 40).flatMap((action, index) => [index ? ", " : "", inline(action, 60)]),
            legal.length > 40 ? " and more" : "",
          ]
        : []),
    );
    if (state.log.length !== this.logged) {
      this.logged = state.log.length;
      put(this.log, ...state.log.map((entry) => this.entryOf(entry)));
      if (!state.log.length) this.log.append(h("li", { class: "soft" }, "No move yet."));
      this.log.lastElementChild?.scrollIntoView?.({ block: "nearest" });
    }
    if (state.over) this.status.focus({ preventScroll: true });
  }

  entryOf(entry) {
    const mine = entry.player === this.seat0;
    return h(
      "li",
      { class: "panel pad" },
      h(
        "div",
        { class: "row" },
        h("b", { class: `p${entry.player % 2}` }, mine ? "You" : "Model"),
        entry.action === null ? h("span", { class: "tag bad" }, "no legal action") : inline(entry.action, 120),
      ),
      !mine && this.thinking.checked && entry.thinking
        ? h("details", { open: true }, h("summary", { class: "soft small" }, "Its thought"), block(entry.thinking))
        : null,
      !mine && entry.reply
        ? h("details", {}, h("summary", { class: "soft small" }, "Its reply"), block(entry.reply))
        : null,
    );
  }

  verdict({ returns, outcome }) {
    const mine = returns?.[this.seat0];
    const others = returns?.filter((_, player) => player !== this.seat0) ?? [];
    const result =
      mine === undefined
        ? "The game is over"
        : others.every((one) => mine > one)
          ? "You win"
          : others.some((one) => mine < one)
            ? "You lose"
            : "A draw";
    const how = outcome === "illegal_move" ? " by an illegal move" : "";
    return `${result}${how}${mine === undefined ? "" : ` (${signed(mine)})`}`;
  }

  async move(text) {
    if (!text || !this.state?.your_turn || this.moving) return;
    const clicked = document.activeElement?.dataset?.action !== undefined;
    this.moving = true;
    try {
      await post(`/api/play/${this.session}/move`, { text });
      this.input.value = "";
      this.draw({ ...this.state, your_turn: false });
      await this.poll();
      if (this.state.your_turn)
        (clicked
          ? (this.board.querySelector("[data-action]:is(button):not([tabindex='-1'])") ?? this.input)
          : this.input
        ).focus();
    } catch (error) {
      this.fail(error);
    } finally {
      this.moving = false;
    }
  }

  async giveUp() {
    await this.end();
    this.table.hidden = true;
    put(this.message, h("p", { class: "soft" }, "You left the game."));
    this.form.querySelector("button").focus();
  }

  fail(error) {
    if (this.left) return;
    put(this.message, h("p", { class: "notice bad" }, error.message));
    if (error.constructor !== ApiError) console.error(error);
  }

  async end() {
    const session = this.session;
    this.session = null;
    this.state = null;
    if (session) await remove(`/api/play/${session}`).catch(() => {});
  }

  async update() {
    return true;
  }

  leave() {
    this.left = true;
    this.end();
  }
}
