"""What baseline and pull do to play, gradients and thoughts of a model that thinks, and what guards see of it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, pstdev

from spiral.core.metrics import Matchup
from spiral.core.steps import numbered
from spiral.core.storage import read_episodes
from spiral.experiments.paired import by_seed, by_step, compare, curves
from spiral.experiments.tables import Curves, Entry, Results, Table
from spiral.models.nano_think.thought import thought, winning_actions
from spiral.runs.directory import read_metrics

ARMS = ("rae", "none", "shared", "rae_pull", "none_pull", "shared_pull")
CONTROLS = {
    "none": "rae",
    "shared": "rae",
    "rae_pull": "rae",
    "none_pull": "rae_pull",
    "shared_pull": "rae_pull",
}
"""What is taken from each arm: RAE with the same pull, and from RAE with a pull RAE without."""
GAME = "nim"
PROMPT = f"{GAME}:"
GUARDS = ("thoughts", "length", "template", "entropy", "entropy_rise", "seats", "advantages", "illegal", "gradient")
STATES = {"warning": 1.0, "collapse": 2.0}
"""The tables of guards, and the state from which on a run counts."""
WINDOW = 10
"""Steps at the beginning and the end of a run over which is averaged."""
Rows = Sequence[Mapping[str, float]]


def tables(results: Results) -> list[Table | Curves]:
    """Play, gradients, thoughts and guards."""
    groups: dict[str, dict[str, Callable[[Path], float | None]]] = {
        "play": {
            "score against random": lambda run: score(read_metrics(run), "random"),
            "score against minimax": lambda run: score(read_metrics(run), "minimax"),
            "winning moves taken": winning_moves,
            "illegal moves": lambda run: mean_of(read_metrics(run)[-WINDOW:], "rollout/illegal"),
        },
        "gradients": {
            "gradient norm": lambda run: fmean(norms(read_metrics(run))),
            "its spread over the steps": lambda run: spread(norms(read_metrics(run))),
            "largest over median": lambda run: max(norms(read_metrics(run))) / median(norms(read_metrics(run))),
            "mean square of the advantages": squared_advantage,
        },
        "thoughts": {
            "tokens at the end": lambda run: mean_of(read_metrics(run)[-WINDOW:], "thinking/length"),
            "tokens, end less start": lambda run: longer(read_metrics(run)),
            "empty": lambda run: mean_of(read_metrics(run)[-WINDOW:], "thinking/empty"),
            "true": lambda run: [*true_thoughts(run).values()][-1],
        },
    }
    titles = {"play": "What it plays", "gradients": "Its gradients, second half", "thoughts": "Its thoughts"}
    found: list[Table | Curves] = []
    for group, columns in groups.items():
        found += compare(results, ARMS, CONTROLS, columns, titles[group], prefix=f"{group}_")
    found += [guards(results, name, least) for name, least in STATES.items()]
    for name, series, title in (
        ("scores", scores, "Score against random play"),
        ("norms", lambda run: by_step(run, "learner/grad_norm"), "Gradient norm"),
        ("lengths", lambda run: by_step(run, "thinking/length"), "Tokens of a thought"),
        ("truths", true_thoughts, "Share of true thoughts"),
    ):
        found.append(curves(results, ARMS, series, title, name=name))
    return found


def scores(run: Path) -> dict[int, float]:
    """The share of games won against random play by evaluated step."""
    return by_step(run, Matchup(game=GAME, opponent="random").evaluation_key("win"))


def score(rows: Rows, opponent: str) -> float | None:
    """The share of games won in the last evaluation against an opponent; nim has no draws."""
    key = Matchup(game=GAME, opponent=opponent).evaluation_key("win")
    return next((row[key] for row in reversed(rows) if key in row), None)


def mean_of(rows: Rows, key: str) -> float:
    """The mean of a metric over steps."""
    return fmean(row[key] for row in rows if key in row)


def longer(rows: Rows) -> float:
    """By how many tokens thoughts have become longer: the last steps less the first ones."""
    steps = [row for row in rows if "thinking/length" in row]
    return mean_of(steps[-WINDOW:], "thinking/length") - mean_of(steps[:WINDOW], "thinking/length")


def norms(rows: Rows) -> list[float]:
    """The gradient norms of the second half of the steps."""
    found = [row["learner/grad_norm"] for row in rows if "learner/grad_norm" in row]
    return found[len(found) // 2 :]


def spread(values: Sequence[float]) -> float:
    """Standard deviation over mean; 0 where all are 0."""
    mean = fmean(values)
    return pstdev(values) / mean if mean else 0.0


def squared_advantage(run: Path) -> float:
    """The mean square of the advantages in the games kept of the second half of the steps, turn by turn.

    A baseline is there to reduce it: the variance of the gradient is proportional to it where score functions and
    advantages are independent.
    """
    kept = numbered(run / "episodes", ".parquet")
    episodes = [episode for step, file in kept if step * 2 > kept[-1][0] for episode in read_episodes(file)]
    advantages = [turn.advantages for episode in episodes for turn in episode.turns if turn.advantages is not None]
    return fmean(float((values**2).mean()) for values in advantages)


def true_thoughts(run: Path) -> dict[int, float]:
    """The share of thoughts that are true to the last number, in each step whose games are kept."""
    return {
        step: fmean(reply.startswith(thought(heaps)) for heaps, reply, _ in turns(file))
        for step, file in numbered(run / "episodes", ".parquet")
    }


def winning_moves(run: Path) -> float:
    """The share of the last step's positions with a winning move in which one was taken."""
    _, file = numbered(run / "episodes", ".parquet")[-1]
    chances = [(winning_actions(heaps), action) for heaps, _, action in turns(file)]
    return fmean(action in winning for winning, action in chances if winning)


def turns(file: Path) -> list[tuple[list[int], str, str | None]]:
    """Heaps, reply and action of every turn of a file of games; an illegal reply has no action."""
    return [
        ([int(heap) for heap in turn.observation.removeprefix(PROMPT).split()], turn.reply, turn.action)
        for episode in read_episodes(file, tokens=False)
        for turn in episode.turns
    ]


def guards(results: Results, name: str, least: float) -> Table:
    """In how many runs of each arm each guard came to a state, at any step."""
    entries = []
    for arm in ARMS:
        worst = by_seed(results, arm, worst_states)
        for guard in GUARDS:
            reached = sum(states[guard] >= least for states in worst.values()) if worst else None
            entries.append(Entry(row=guard, column=arm, value=reached, n=len(worst) or None))
    title = f"Runs in which each guard found a {name}"
    return Table(name=f"guards_{name}", title=title, entries=entries, form="{:.0f}", note="At any step of the run.")


def worst_states(run: Path) -> dict[str, float]:
    """The worst state of each guard over a run: 0 fine, 1 warning, 2 collapsed."""
    rows = read_metrics(run)
    return {guard: max((row.get(f"guard/{guard}", 0.0) for row in rows), default=0.0) for guard in GUARDS}
