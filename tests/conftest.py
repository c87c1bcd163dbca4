"""Models small enough for every test: the built-in architecture with random weights, and the built-in model itself."""

from __future__ import annotations

import gc
import math
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch

from spiral.models import precision
from spiral.models.loading import ModelConfig, load_language_model
from spiral.models.nano.build import new_model
from spiral.models.nano.tokenizer import build_tokenizer
from spiral.models.store import store_directory

gc.disable()  # until all tests are collected
ALONE = ("test_ray_death", "test_vllm_broadcast")
"""Tests of the cluster that do not use the shared Ray."""


def pytest_configure(config):
    """Comparisons of engine and learner that earlier runs have kept do not count here; the user's local models do."""
    if hasattr(config, "workerinput"):
        return  # a process of `pytest -n`, which shares the directory of the first one
    home, models = Path(tempfile.mkdtemp(prefix="spiral-tests-")), store_directory()
    if models.is_dir():
        (home / "models").symlink_to(models)
    os.environ["SPIRAL_HOME"] = str(home)
    config.add_cleanup(lambda: shutil.rmtree(home))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """With `pytest -n`, each file is run by one process, and those that share one Ray by the same.

    The files of whole runs come first, since they are the longest: at the end one process would wait for the other.
    """
    items.sort(key=lambda item: len(item.path.relative_to(item.config.rootpath).parts))
    for item in items:
        path = item.path.relative_to(item.config.rootpath)
        group = "ray" if path.parent.name == "distributed" and path.stem not in ALONE else str(path)
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish(session):
    """Exempts from garbage collection what imports and collecting made: a million objects, half a second each time."""
    gc.collect()
    gc.freeze()
    gc.enable()
    if session.items and getattr(session.config.option, "loadgroup", False) and "@" not in session.items[0].nodeid:
        raise pytest.UsageError("xdist does not group tests with this pytest; install what constraints.txt names")


@pytest.fixture(scope="session", autouse=True)
def signals_as_in_a_terminal():
    """A background job, or one under nohup, is started with signals ignored that tests send."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """What the tests write has to survive a killed process, not a machine without power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def results_elsewhere(monkeypatch, tmp_path_factory):
    """What commands keep does not pile up in the working directory."""
    monkeypatch.setenv("SPIRAL_RESULTS", str(tmp_path_factory.getbasetemp() / "results"))


@pytest.fixture(autouse=True)
def fast_in_bfloat16(monkeypatch):
    """What a command prints does not depend on the CPU of the tests."""
    monkeypatch.setattr(precision, "LIMIT", math.inf)


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    """Leaves the width of tables unset, as in a pipe; processes of `pytest -n` have one set."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def one_thread():
    """Products of matrices are then the same however many rows they have, and small ones are fastest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def random_model(tokenizer):
    """Random weights, large enough for attention to matter; says nothing sensible and seldom stops."""
    model = new_model(len(tokenizer)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4.0)
    return model


@pytest.fixture(scope="session")
def nano():
    """The built-in model, which answers legally."""
    return load_language_model(ModelConfig(path="nano", device="cpu"))
