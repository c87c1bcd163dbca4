"""The rows of the tables of `benchmarks.scaling`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.common import Row
from benchmarks.scaling_cases import Case
from benchmarks.scaling_inputs import H200, Workload
from benchmarks.scaling_simulation import Result
from spiral.runs.cluster import Schedule

WORTHWHILE = 0.5
"""Share of the best tokens a second and GPU below which a schedule has stopped scaling."""
TAILS = (0.0, 0.5, 1.0, 1.5, 2.0)
LONG_BUDGET = 32_768
PATIENCE = 4
PATIENT = f"async {PATIENCE}"
PLANS: Mapping[str, tuple[Schedule, int]] = {
    "sync": ("sync", 1),
    "overlap": ("overlap", 1),
    "async": ("async", 1),
    PATIENT: ("async", PATIENCE),
}
"""Schedules and updates that turns may be behind."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One case, simulated."""

    case: Case
    result: Result

    @property
    def tokens_per_second(self) -> float:
        """Learned from, prompts included."""
        return self.case.tokens_per_second(self.result)

    @property
    def per_gpu(self) -> float:
        """Tokens a second of one GPU, learner's and workers' counted alike."""
        return self.tokens_per_second / (self.case.rollout_gpus + self.case.learner_gpus)


Points = Mapping[str, Point]
"""By plan."""


def planned(case: Case, plan: str) -> Case:
    """The case under one of `PLANS`, with the learner that its games need."""
    schedule, max_staleness = PLANS[plan]
    return dataclasses.replace(case, schedule=schedule, max_staleness=max_staleness).balanced()


def point(case: Case, plan: str) -> Point:
    """Simulates it."""
    chosen = planned(case, plan)
    return Point(case=chosen, result=chosen.run())


def all_plans(case: Case) -> Points:
    """The case under every plan."""
    return {plan: point(case, plan) for plan in PLANS}


def sweep_row(points: Points) -> Row:
    """One model and number of workers."""
    results = [each.result for each in points.values()]
    some = next(iter(points.values())).case
    return {
        "model": some.shape.name,
        "workers": some.workers,
        "GPUs": f"{some.rollout_gpus} + {_learners(points)}",
        **_seconds(points),
        **_tokens(points),
        "rollout idle": _shares([result.rollout_idle for result in results]),
        "learner idle": _shares([result.learner_idle for result in results]),
        "replies in flight": " / ".join(f"{result.in_flight:.1f}" for result in results),
        "staleness": " / ".join(f"{result.staleness:.2f}" for result in results),
        "at most": " / ".join(str(result.staleness_max) for result in results),
        "dropped": " / ".join(f"{result.dropped:.1%}" for result in results),
    }


def joining_row(former: Points, points: Points) -> Row:
    """One chunk after the other, and games that join, in the same cluster."""
    some = points["sync"].case
    return {
        "model": some.shape.name,
        "workers": some.workers,
        "GPUs before": f"{some.rollout_gpus} + {_learners(former)}",
        "GPUs now": f"{some.rollout_gpus} + {_learners(points)}",
        **{
            f"{plan}, tokens/s": f"{before.tokens_per_second:,.0f}, {points[plan].tokens_per_second:,.0f}"
            for plan, before in former.items()
        },
        **{f"{plan}, gain": _gain(before, points[plan]) for plan, before in former.items()},
    }


def _gain(before: Point, now: Point) -> str:
    speed, worth = now.tokens_per_second / before.tokens_per_second, now.per_gpu / before.per_gpu
    return f"{speed:.2f}x, a GPU {worth:.2f}x"


def last_worthwhile(points: Sequence[Point]) -> int:
    """Where in a sweep the last size is, counted from the smallest, that is worth its GPUs."""
    least = WORTHWHILE * max(point.per_gpu for point in points)
    last = 0
    while last + 1 < len(points) and points[last + 1].per_gpu >= least:
        last += 1
    return last


def end_row(plan: str, points: Sequence[Point]) -> Row:
    """Where a plan stops, and what would help most one size further."""
    last = last_worthwhile(points)
    end = points[last]
    beyond = points[min(last + 1, len(points) - 1)]
    return {
        "model": end.case.shape.name,
        "schedule": plan,
        "workers": end.case.workers,
        "GPUs": _gpus(end.case),
        "steps/hour": 3600 / end.result.step,
        "tokens/s": round(end.tokens_per_second),
        "tokens/s a GPU": round(end.per_gpu),
        "of the best": f"{end.per_gpu / max(point.per_gpu for point in points):.0%}",
        "one size further, without": ", ".join(f"{cost} {gain:.2f}x" for cost, gain in beyond.case.blame()),
    }


def change_rows(case: Case) -> Iterator[Row]:
    """The case as it is and otherwise, each with the learner it needs."""
    changes = {
        "as it is": case,
        "chunk after chunk, as before": case.as_before(),
        "weights through the object store": dataclasses.replace(case, publishing="store"),
        "weights change within replies": dataclasses.replace(case, way="in reply"),
    }
    for name, changed in changes.items():
        plans = [plan for plan, (schedule, _) in PLANS.items() if changed.way != "in reply" or schedule == "async"]
        points = {plan: point(changed, plan) for plan in plans}
        yield {
            "model": case.shape.name,
            "change": name,
            "GPUs": f"{case.rollout_gpus} + {_learners(points)}",
            **dict.fromkeys((f"{plan} tokens/s" for plan in PLANS), ""),
            **_tokens(points),
        }


def patience_rows(case: Case, allowed: Sequence[int]) -> Iterator[Row]:
    """Async with turns that may be more or fewer updates behind."""
    for max_staleness in allowed:
        for way in ("joined", "in reply"):
            chosen = dataclasses.replace(case, schedule="async", max_staleness=max_staleness, way=way).balanced()
            found = Point(case=chosen, result=chosen.run())
            yield {
                "workers": case.workers,
                "max_staleness": max_staleness,
                "weights change": {"joined": "between turns", "in reply": "within replies"}[way],
                "GPUs": _gpus(chosen),
                "tokens/s": round(found.tokens_per_second),
                "tokens/s a GPU": round(found.per_gpu),
                "replies in flight": f"{found.result.in_flight:.1f}",
                "staleness": f"{found.result.staleness:.2f}, at most {found.result.staleness_max}",
                "dropped": f"{found.result.dropped:.1%}",
            }


def tail_rows(case: Case) -> Iterator[dict[str, object]]:
    """The same mean length with other spreads, in the case's games and in as many turns that are a game each."""
    many = case.workload
    single = dataclasses.replace(many, turns=(1,), games=round(many.games * many.mean_turns))
    for workload in (many, single):
        for tail in TAILS:
            yield _tail_row(case, dataclasses.replace(workload, tail=tail, budget=LONG_BUDGET))


def sensitivity_rows(case: Case, workers: Sequence[int]) -> Iterator[Row]:
    """Where overlap ends when one assumption is another."""
    workload, constants = case.workload, case.constants
    others = {
        "as it is": case,
        "H200": dataclasses.replace(case, device=H200),
        "70% of the bandwidth is 50%": _constants(case, bandwidth_share=0.5),
        "70% of the bandwidth is 90%": _constants(case, bandwidth_share=0.9),
        "2 ms a pass are 5": _constants(case, pass_seconds=5e-3),
        "updates at 18% instead of 45%": _constants(case, learner_share=0.4 * constants.learner_share),
        "tail 0.5": dataclasses.replace(case, workload=dataclasses.replace(workload, tail=0.5)),
        "tail 2": dataclasses.replace(case, workload=dataclasses.replace(workload, tail=2.0)),
        "replies half as long": dataclasses.replace(
            case, workload=dataclasses.replace(workload, reply=workload.reply / 2, budget=workload.budget // 2)
        ),
        "a quarter of the games": _games(case, workload.games // 4),
        "four times the games": _games(case, workload.games * 4),
    }
    for name, other in others.items():
        points = [point(dataclasses.replace(other, workers=count), "overlap") for count in sorted(workers)]
        end = points[last_worthwhile(points)]
        yield {
            "assumption": name,
            "workers": end.case.workers,
            "games a worker": round(end.case.workload.games / end.case.workers),
            "GPUs": _gpus(end.case),
            "tokens/s": round(end.tokens_per_second),
        }


def _constants(case: Case, **changes: float) -> Case:
    return dataclasses.replace(case, constants=dataclasses.replace(case.constants, **changes))


def _games(case: Case, games: int) -> Case:
    return dataclasses.replace(case, workload=dataclasses.replace(case.workload, games=games))


def _tail_row(case: Case, workload: Workload) -> dict[str, object]:
    points = all_plans(dataclasses.replace(case, workload=workload))
    return {
        "turns a game": f"{workload.mean_turns:.1f}",
        "tail": workload.tail,
        "GPUs": f"{case.rollout_gpus} + {_learners(points)}",
        **_seconds(points),
        "rollout idle": _shares([each.result.rollout_idle for each in points.values()]),
        "dropped": _shares([each.result.dropped for each in points.values()]),
    }


def _learners(points: Points) -> str:
    """The learner's GPUs under every plan."""
    gpus = [each.case.learner_gpus for each in points.values()]
    return str(gpus[0]) if len(set(gpus)) == 1 else " / ".join(map(str, gpus))


def _gpus(case: Case) -> str:
    """Workers' and learner's."""
    return f"{case.rollout_gpus} + {case.learner_gpus}"


def _seconds(points: Points) -> dict[str, object]:
    return {f"{plan} s/step": round(each.result.step) for plan, each in points.items()}


def _tokens(points: Points) -> dict[str, object]:
    return {f"{plan} tokens/s": round(each.tokens_per_second) for plan, each in points.items()}


def _shares(shares: Sequence[float]) -> str:
    return " / ".join(f"{max(0.0, share):.0%}" for share in shares)
