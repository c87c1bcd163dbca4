"""One whole training step, SPIRAL against TRL's GRPO trainer: the same model, games, prompts, budgets and updates.

    python -m benchmarks.step --model smollm2

Every side runs in its own process, one after the other, and does the work of `step.toml`: games by self-play with both
players in one policy, credit, two passes of PPO, new weights for the sampler. The recipe makes the work the same except
for what is sampled, so samples and tokens are counted, and the ratio is given for a step and for a token. TRL gets its
own environment, `.venv-trl`, made here when it is missing.

TRL is measured more than once, since its settings and versions differ in speed on a CPU: 1.16.0 is the newest when this
was written; 1.14.2 is the last whose output head, without a GPU, reads only the response tokens. "bfloat16" holds the
weights themselves in bfloat16, which is its fastest; "float32" is mixed precision as SPIRAL has it. The ratios are
against the fastest of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import GIB, ROOT, Row, record
from benchmarks.sides import Report, read_report
from spiral.runs.recipe import load_recipe

TRL_ENVIRONMENT = ROOT / ".venv-trl"
TRL_VERSION = "1.16.0"
TRL_SIDES = (f"{TRL_VERSION}/bfloat16", "1.14.2/bfloat16", "1.14.2/float32")
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
RECIPE = ROOT / "benchmarks" / "step.toml"
NOTE = (
    "Seconds, samples and tokens are means over the measured steps. A token counts once, whether of a prompt or of a"
    " response. The ratios are against the fastest TRL row: of seconds a step, and of tokens a second."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures every side and records the table."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = new_parser().parse_args(given)
    recipe = load_recipe(options.recipe, _overrides(options))
    reports = measured(options)
    settings = {
        "model": options.model,
        "games": f"{options.games} of {', '.join(recipe.selfplay.games)}",
        "response budget": options.tokens,
        "updates a step": recipe.learner.epochs * recipe.learner.minibatches,
        "threads": options.threads,
        "layout": options.layout,
        "TRL micro-batches": options.trl_micro_batches,
        "steps": f"{options.steps} after {options.warmup}",
        "sides ran": versions_of(reports),
    }
    record("step", " ".join(["python -m benchmarks.step", *given]), settings, _rows(reports), NOTE)


def measured(options: argparse.Namespace) -> dict[str, Report]:
    """Runs every side, one after the other."""
    reports: dict[str, Report] = {}
    for engine in options.engine:
        reports[f"SPIRAL, {engine}"] = _spiral(options, engine)
    for side in options.trl:
        version, _, weights = side.partition("/")
        reports[f"TRL {version}, {weights} weights"] = _trl(options, version, weights)
    return reports


def new_parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description="One training step, SPIRAL against TRL.")
    options.add_argument("--model", default="smollm2", help="name or directory (%(default)s)")
    options.add_argument("--recipe", default=str(RECIPE), help="what a step is (%(default)s)")
    options.add_argument("--games", type=int, default=16, help="games a step (%(default)s)")
    options.add_argument("--tokens", type=int, default=96, help="response budget (%(default)s)")
    options.add_argument("--warmup", type=int, default=1, help="steps that do not count (%(default)s)")
    options.add_argument("--steps", type=int, default=2, help="steps that count (%(default)s)")
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (%(default)s)")
    options.add_argument("--engine", nargs="*", default=["transformers"], choices=["transformers", "vllm"])
    options.add_argument("--layout", default="packed", choices=["packed", "padded"], help="SPIRAL's (%(default)s)")
    options.add_argument("--trl", nargs="*", default=TRL_SIDES, metavar="VERSION/WEIGHTS", help="(%(default)s)")
    options.add_argument("--trl-micro-batches", type=int, default=4, help="parts of a pass (%(default)s)")
    options.add_argument("--set", action="append", default=[], metavar="section.key=value", dest="overrides")
    return options


def _spiral(options: argparse.Namespace, engine: str) -> Report:
    python = VLLM_PYTHON if engine == "vllm" else Path(sys.executable)
    chosen = [f"engine.kind={engine}", f"learner.layout={options.layout}"]
    return _run(options, [str(python), "-m", "benchmarks.spiral_step"], chosen)


def _trl(options: argparse.Namespace, version: str, weights: str) -> Report:
    python, path = trl_environment(version)
    program = [str(python), "-W", "ignore", "-m", "benchmarks.trl_step", "--weights", weights]
    return _run(options, [*program, "--micro-batches", str(options.trl_micro_batches)], [], path)


def _overrides(options: argparse.Namespace, *chosen: str) -> list[str]:
    """What the command line changes in the recipe; `chosen` is one side's own."""
    return [
        f"model.path={options.model}",
        f"selfplay.episodes_per_step={options.games}",
        f"sampling.max_new_tokens={options.tokens}",
        *chosen,
        *options.overrides,
    ]


def _run(options: argparse.Namespace, program: list[str], chosen: list[str], path: str = "") -> Report:
    """Runs one side in a process of its own, with the same recipe, sizes and threads."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "report.json"
        command = [*program, options.recipe, "--out", str(out)]
        for name in ("warmup", "steps", "threads"):
            command += [f"--{name}", str(getattr(options, name))]
        command += [part for override in _overrides(options, *chosen) for part in ("--set", override)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": path}
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False, stdout=sys.stderr)
        if done.returncode:
            raise SystemExit(f"a side failed with status {done.returncode}; its messages are above. It was: {command}")
        return read_report(out)


def trl_environment(version: str) -> tuple[Path, str]:
    """The Python of `.venv-trl`, made when it is missing, and the PYTHONPATH under which it finds that TRL.

    One environment holds torch, transformers and this project as `constraints.txt` pins them; other versions of TRL lie
    beside it and shadow the installed one.
    """
    python = TRL_ENVIRONMENT / "bin" / "python"
    ready = TRL_ENVIRONMENT / ".ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", str(TRL_ENVIRONMENT)], check=True)
        pip_install(python, "-c", str(ROOT / "constraints.txt"), f"trl=={TRL_VERSION}", "-e", str(ROOT))
        ready.touch()
    if version == TRL_VERSION:
        return python, ""
    shadow = TRL_ENVIRONMENT / f"trl-{version}"
    if not shadow.exists():
        pip_install(python, "--no-deps", "--target", str(shadow), f"trl=={version}")
    return python, str(shadow)


def pip_install(python: Path, *arguments: str) -> None:
    """Installs packages. Raises `SystemExit` with pip's messages when it cannot."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def _rows(reports: dict[str, Report]) -> list[Row]:
    """One row a side, with ratios against the fastest TRL."""
    speed = {name: report.tokens / report.mean("seconds") for name, report in reports.items()}
    rivals = [name for name in reports if name.startswith("TRL")]
    best = max(rivals, key=lambda name: speed[name], default=None)
    rows: list[Row] = []
    for name, report in reports.items():
        seconds, generate = report.mean("seconds"), report.mean("generate_seconds")
        rows.append(
            {
                "side": name,
                "s/step": seconds,
                "generate s": generate,
                "learn s": seconds - generate,
                "samples": report.mean("samples"),
                "prompt tokens": report.mean("prompt_tokens"),
                "response tokens": report.mean("response_tokens"),
                "tokens/s": speed[name],
                "peak GiB": report.peak_bytes / GIB,
                **(_ratios(report, reports[best]) if best else {}),
            }
        )
    return rows


def _ratios(report: Report, rival: Report) -> Row:
    """How much faster a side is: by the step, and by the token."""
    step = rival.mean("seconds") / report.mean("seconds")
    return {"x TRL, step": step, "x TRL, token": step * report.tokens / rival.tokens}


def versions_of(reports: dict[str, Report]) -> str:
    """The versions that the sides ran with."""
    used = {" ".join(f"{name} {version}" for name, version in report.versions.items()) for report in reports.values()}
    return "; ".join(sorted(used))


if __name__ == "__main__":
    main()
