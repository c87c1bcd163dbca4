"""Runs in Kuhn poker that are made up: policies, and a run directory with an evaluation of each."""

import json

from spiral.games import load_game
from spiral.theory import information_states

STATES = [(state.information_state(player), player, state.legal_actions())
          for state, player in information_states(load_game("kuhn_poker"))]  # fmt: skip
UNIFORM = {key: dict.fromkeys(actions, 0.5) for key, _, actions in STATES}
PASSIVE = {
    key: {action: float(action in ("check", "fold")) for action in actions} for key, _, actions in STATES
}  # fmt: skip
BOLD = {key: {action: float(action in ("bet", "call")) for action in actions} for key, _, actions in STATES}


def make_run(path, policies, *, illegal=0.0, exploitability=(0.5,) * 9):
    """A run directory with an evaluation for each policy, after steps 0, 10, 20 and so on."""
    rows = []
    for index, (policy, value) in enumerate(zip(policies, exploitability, strict=False)):
        step = 10 * index
        file = path / f"evaluation/step-{step:06d}/kuhn_poker-states.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text(
            "".join(json.dumps(record(key, player, policy[key], illegal)) + "\n" for key, player, _ in STATES)
        )
        row = {"step": step, "rollout/illegal": illegal, "evaluation/kuhn_poker/exploitability": value}
        if step:  # metrics begin with the first step of training
            rows.append(json.dumps(row) + "\n")
        theory = [{"game": "kuhn_poker", "exploitability": value}]
        file.parent.with_suffix(".json").write_text(json.dumps({"arena": [], "exploitability": theory}))
    (path / "config.toml").write_text("")
    (path / "metrics.jsonl").write_text("".join(rows))
    return path


def record(key, player, row, illegal):
    """A line of an evaluation's file: probabilities of legal actions sum to one minus the illegal mass."""
    probabilities = {action: value * (1 - illegal) for action, value in row.items()}
    return {"seat": player, "information_state": key, "probabilities": probabilities, "illegal": illegal}
