"""Results of an experiment whose runs are made up: a run directory with metrics for each arm and seed."""

import json

from spiral.experiments.jobs import Prepared
from spiral.experiments.sweep import Job
from spiral.experiments.tables import Results


def made_up(root, arms):
    """Results in which the run of arm A with seed S wrote `arms[A][S]`; None is a run not done."""
    jobs = []
    for arm, by_seed in arms.items():
        for seed, rows in by_seed.items():
            job = Job(name=arm, item="", seed=seed, words=("train", "nano"), gpu_hours=0.0, hours_from="")
            one = Prepared(job=job, key=f"{arm}-{seed}", directory=root / f"{arm}-{seed}", words=(), needs=())
            jobs.append(one)
            if rows is not None:
                one.output.mkdir(parents=True)
                (one.output / "config.toml").write_text("")
                (one.output / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
                one.result_file.write_text("{}")
                one.job_file.write_text('{"status": "done"}')
    return Results(scale="laptop", seeds=(14, 42, 100), jobs=jobs)
