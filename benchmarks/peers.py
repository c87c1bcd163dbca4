"""SPIRAL against its peers on this machine: self-play against `verifiers`, a training step against TRL.

    python -m benchmarks.peers --model smollm2

- "selfplay": rounds of games in which a model plays both players, all begun at once. SPIRAL plays them as a rollout
  worker does, game loop and vLLM in one process. The package verifiers plays them as it plays rollouts: asynchronous
  clients against vLLM's own server, started by `spiral serve --engine vllm`, one after the other on the same cores. The
  model, game, deals, messages (each player's own conversation), sampling and response budget are the same; tokens are
  counted on both sides, since replies are sampled.
- "step": a whole training step against TRL's newest release, by the sides of `benchmarks.step`, asked to think, with a
  response budget of 256 tokens.

Every side repeats its work five times after a round that does not count. Intervals are of 95%, by Student's t; those of
a ratio are of the difference of logarithms. Needs the package index once: it makes `.venv-verifiers` and `.venv-trl`.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

from benchmarks import step
from benchmarks.common import ROOT, Row, record
from benchmarks.rounds import Round, read_rounds
from benchmarks.sides import Report

VERIFIERS = "0.4.0"
VERIFIERS_ENVIRONMENT = ROOT / ".venv-verifiers"
START_SECONDS = 900.0
"""How long vLLM's server may take to start."""
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t for an interval of 95%, by degrees of freedom from 1; beyond the last one it is an upper bound."""
NOTE = (
    "Means over the rounds that count, with intervals of 95%. Ratios are against the last row, of games a second and of"
    " tokens (prompt and reply) a second."
)
STEP_NOTE = (
    "Means over the steps that count, with intervals of 95%. The ratio is of tokens (prompt and response) a second,"
    " against the fastest TRL row."
)


def interval(values: Sequence[float]) -> float:
    """Half of the width of the 95% interval of a mean; NaN for a single value."""
    if len(values) < 2:
        return math.nan
    return T95[min(len(values) - 1, len(T95)) - 1] * stdev(values) / math.sqrt(len(values))


def shown(values: Sequence[float]) -> str:
    """A mean with its interval."""
    return f"{mean(values):,.3g} ± {interval(values):.2g}"


def ratio(values: Sequence[float], others: Sequence[float]) -> str:
    """The ratio of two rates and its 95% interval, from the logarithms; degrees of freedom of the smaller sample."""
    ours, theirs = ([math.log(value) for value in side] for side in (values, others))
    middle = mean(ours) - mean(theirs)
    count = min(len(ours), len(theirs))
    if count < 2:
        return f"{math.exp(middle):.2f}x"
    spread = math.sqrt(stdev(ours) ** 2 / len(ours) + stdev(theirs) ** 2 / len(theirs))
    half = T95[min(count - 1, len(T95)) - 1] * spread
    return f"{math.exp(middle):.2f}x ({math.exp(middle - half):.2f} to {math.exp(middle + half):.2f})"


def selfplay_rows(sides: dict[str, list[Round]]) -> list[Row]:
    """One row a side; the last is what the others are compared with."""
    rates = {name: [played.games / played.seconds for played in rounds] for name, rounds in sides.items()}
    tokens = {
        name: [(played.prompt_tokens + played.reply_tokens) / played.seconds for played in rounds]
        for name, rounds in sides.items()
    }
    peer = list(sides)[-1]
    rows: list[Row] = []
    for name, rounds in sides.items():
        games, turns = (sum(getattr(played, what) for played in rounds) for what in ("games", "turns"))
        rows.append(
            {
                "side": name,
                "rounds": len(rounds),
                "games/s": shown(rates[name]),
                "tokens/s": shown(tokens[name]),
                "turns a game": turns / games,
                "prompt tokens a turn": sum(played.prompt_tokens for played in rounds) / turns,
                "reply tokens a turn": sum(played.reply_tokens for played in rounds) / turns,
                "illegal": f"{sum(played.illegal for played in rounds) / games:.0%}",
                "x peer, games": ratio(rates[name], rates[peer]),
                "x peer, tokens": ratio(tokens[name], tokens[peer]),
            }
        )
    return rows


def step_rows(reports: dict[str, Report]) -> list[Row]:
    """One row a side, against the fastest TRL."""
    rates = {
        name: [(done.prompt_tokens + done.response_tokens) / done.seconds for done in report.steps]
        for name, report in reports.items()
    }
    rivals = [name for name in reports if name.startswith("TRL")]
    best = max(rivals, key=lambda name: mean(rates[name]), default=None)
    return [
        {
            "side": name,
            "steps": len(report.steps),
            "s/step": shown([done.seconds for done in report.steps]),
            "generate s": shown([done.generate_seconds for done in report.steps]),
            "samples": report.mean("samples"),
            "response tokens a sample": report.mean("response_tokens") / max(1.0, report.mean("samples")),
            "tokens/s": shown(rates[name]),
            "x TRL, token": "-" if best is None else ratio(rates[name], rates[best]),
        }
        for name, report in reports.items()
    ]


def verifiers_python() -> Path:
    """The Python of `.venv-verifiers`, which is made when it is missing: verifiers wants other packages than ours."""
    python, ready = VERIFIERS_ENVIRONMENT / "bin" / "python", VERIFIERS_ENVIRONMENT / ".ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VERIFIERS_ENVIRONMENT)], check=True)
        step.pip_install(python, f"verifiers=={VERIFIERS}", "jinja2>=3.1")
        ready.touch()
    return python


def run_side(program: Sequence[str], options: argparse.Namespace, **environment: str) -> tuple[list[Round], str]:
    """Runs one side in a process of its own; its rounds, and the versions it ran with."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "rounds.json"
        command = [*program, "--model", options.model, "--game", options.game, "--games", str(options.games),
                   "--tokens", str(options.tokens), "--temperature", str(options.temperature),
                   "--warmup", "1", "--repeats", str(options.repeats), "--out", str(out)]  # fmt: skip
        command += ["--thinking"] if options.thinking else []
        variables = {**os.environ, "OMP_NUM_THREADS": str(options.threads), **environment}
        done = subprocess.run(command, cwd=ROOT, env=variables, check=False, stdout=sys.stderr)
        if done.returncode:
            raise SystemExit(f"a side failed with status {done.returncode}; its messages are above. It was: {command}")
        rounds, versions = read_rounds(out)
        return rounds, " ".join(f"{name} {version}" for name, version in versions.items())


@contextlib.contextmanager
def server(options: argparse.Namespace) -> Iterator[str]:
    """VLLM's own server of the model, as `spiral serve` starts it; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    command = [
        str(step.VLLM_PYTHON), "-m", "spiral", "serve", options.model, "--engine", "vllm", "--port", str(port),
        "--in-flight", str(options.games), "--context", str(options.context), "--compute", options.compute,
        "--thinking" if options.thinking else "--no-thinking",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=sys.stderr)
    try:
        _wait_for(url, process)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Returns when the server answers. Raises `SystemExit` when it ends or takes too long."""
    end = time.monotonic() + START_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"vLLM's server ended with status {process.returncode}; its messages are above")
        with contextlib.suppress(urllib.error.URLError, OSError), opener.open(f"{url}/models", timeout=5):
            return
        time.sleep(1)
    raise SystemExit(f"vLLM's server has not answered within {START_SECONDS:.0f} s")


def selfplay(options: argparse.Namespace, command: str) -> None:
    """Both sides of self-play."""
    python = verifiers_python()
    sides, used = {}, []
    ours = [str(step.VLLM_PYTHON), "-m", "benchmarks.spiral_selfplay", "--context", str(options.context),
            "--compute", options.compute]  # fmt: skip
    sides["SPIRAL, rollout worker with vLLM"], versions = run_side(ours, options)
    used.append(versions)
    with server(options) as url:
        theirs = [str(python), "-m", "benchmarks.verifiers_selfplay", "--url", url]
        rounds, versions = run_side(theirs, options, PYTHONPATH=f"{ROOT / 'src'}{os.pathsep}{ROOT}")
    sides[f"verifiers {VERIFIERS}, clients of vLLM's server"] = rounds
    used.append(versions)
    settings = {
        "part": "self-play", "model": options.model, "game": options.game, "games a round": options.games,
        "response budget": options.tokens, "temperature": options.temperature, "thinking": options.thinking,
        "dtype": options.compute, "threads": options.threads, "sides ran": "; ".join(used),
    }  # fmt: skip
    record("peers", command, settings, selfplay_rows(sides), NOTE)


def training_step(options: argparse.Namespace, command: str) -> None:
    """Both sides of a training step."""
    weights = ("bfloat16", "float32") if options.compute == "bfloat16" else ("float32",)
    chosen = step.new_parser().parse_args(
        ["--model", options.model, "--games", str(options.step_games), "--tokens", str(options.step_tokens),
         "--steps", str(options.repeats), "--threads", str(options.threads), "--engine", *options.engine,
         "--trl", *(f"{step.TRL_VERSION}/{kind}" for kind in weights),
         "--set", "prompt.thinking=true", "--set", f"model.compute={options.compute}"]
    )  # fmt: skip
    reports = step.measured(chosen)
    settings = {
        "part": "step", "model": options.model, "games": options.step_games, "response budget": options.step_tokens,
        "dtype": options.compute, "threads": options.threads, "layout": chosen.layout,
        "sides ran": step.versions_of(reports),
    }  # fmt: skip
    record("peers", command, settings, step_rows(reports), STEP_NOTE)


PARTS = {"selfplay": selfplay, "step": training_step}


def new_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="(both)")
    parser.add_argument("--model", default="smollm2", help="name or directory (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds or steps that count (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads of torch (%(default)s)")
    parser.add_argument("--compute", default="bfloat16", choices=["float32", "bfloat16"], help="(%(default)s)")
    play = parser.add_argument_group("self-play")
    play.add_argument("--game", default="tictactoe", help="(%(default)s)")
    play.add_argument("--games", type=int, default=64, help="games of a round (%(default)s)")
    play.add_argument("--tokens", type=int, default=64, help="response budget (%(default)s)")
    play.add_argument("--temperature", type=float, default=0.7, help="(%(default)s)")
    play.add_argument("--thinking", action="store_true", help="ask for reasoning before the answer")
    play.add_argument("--context", type=int, default=2048, help="tokens of prompt and reply (%(default)s)")
    steps = parser.add_argument_group("step")
    steps.add_argument("--step-games", type=int, default=8, help="games of a step (%(default)s)")
    steps.add_argument("--step-tokens", type=int, default=256, help="response budget (%(default)s)")
    steps.add_argument("--engine", nargs="+", default=["vllm"], choices=["transformers", "vllm"])
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the parts that were asked for."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = new_parser().parse_args(given)
    for name in options.part:
        PARTS[name](options, " ".join(["python -m benchmarks.peers", *given]))


if __name__ == "__main__":
    main()
