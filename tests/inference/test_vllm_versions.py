"""Versions of vLLM, around a stand-in of it: an untested one gives a warning, one that lacks a part is refused."""

from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest

from spiral.inference import vllm_engine, vllm_versions
from spiral.inference.settings import EngineConfig
from spiral.inference.vllm_versions import (
    CPU_PARTS,
    MODULE_PARTS,
    TESTED,
    MissingPartError,
    check_engine,
    check_modules,
    untested,
    version,
    warn_of_version,
)
from spiral.inference.vllm_watchdog import Watchdog


@pytest.fixture
def install(monkeypatch):
    """Puts modules in the place of vLLM: a version, and every part that is named in `parts`."""
    vllm_versions._warn.cache_clear()

    def put(number, parts):
        package = ModuleType("vllm")
        package.__version__ = number
        monkeypatch.setitem(sys.modules, "vllm", package)
        for module, names in parts.items():
            found = ModuleType(module)
            vars(found).update(dict.fromkeys(names))
            monkeypatch.setitem(sys.modules, module, found)

    return put


def engine(lacking=(), worker=("reload_weights", "vllm_config", "get_model")):
    """An engine on two devices with every part but some."""
    parts = {
        "engine_core": SimpleNamespace(
            _finalizer=SimpleNamespace(detach=None),
            engine_core=SimpleNamespace(model_executor=SimpleNamespace(shutdown=None)),
        ),
        "apply_model": None,
        "reset_prefix_cache": None,
        "collective_rpc": lambda function: [function(SimpleNamespace(**dict.fromkeys(worker))) for _ in range(2)],
    }
    return SimpleNamespace(**{name: part for name, part in parts.items() if name not in lacking})


def test_a_tested_version_says_nothing_and_another_one_says_so_once(install, caplog):
    for number in (TESTED[-1], f"{TESTED[-1]}+cpu"):
        install(number, {})
        warn_of_version()
    assert caplog.messages == []
    install("0.99.1+cu130", {})
    assert version() == "0.99.1"
    warn_of_version()
    warn_of_version()
    assert caplog.messages == [
        "vLLM 0.99.1 is installed, and 0.32.0 was tested; whether it computes what the model does is measured now"
        " (docs/check.md)"
    ]


def test_a_vllm_with_every_part_is_taken(install):
    parts = MODULE_PARTS | CPU_PARTS
    install("0.32.0", parts)
    check_modules(parts)
    check_engine(engine())
    assert version() in TESTED


def test_a_module_without_a_part_is_refused_with_its_name(install):
    (module, names), *_ = MODULE_PARTS.items()
    install("0.99.0", {module: [name for name in names if name != "_EP"]})
    with pytest.raises(
        MissingPartError,
        match=r"^vLLM 0\.99\.0 has no vllm\.distributed\.parallel_state\._EP, .*; install vLLM 0\.32\.0, or set engine",
    ):
        check_modules(MODULE_PARTS)
    with pytest.raises(MissingPartError, match=r"has no vllm\.utils\.cpu_resource_utils, which"):
        check_modules(CPU_PARTS)


def test_an_engine_without_a_part_is_refused_with_its_name(install):
    install("0.99.0", {})
    lacking = engine(lacking=("apply_model",))
    del lacking.engine_core.engine_core.model_executor.shutdown
    with pytest.raises(
        MissingPartError,
        match=r"has no LLMEngine\.engine_core\.engine_core\.model_executor\.shutdown and no LLMEngine\.apply_model, ",
    ):
        check_engine(lacking)
    with pytest.raises(MissingPartError, match=r"has no Worker\.reload_weights, which"):
        check_engine(engine(worker=("vllm_config", "get_model")))


@pytest.fixture
def starting(install, monkeypatch):
    """Starts an engine of which only `_start`, a stand-in, is called."""

    def start(number, stand_in):
        install(number, {})
        monkeypatch.setattr(vllm_engine, "_check_surroundings", lambda: None)
        monkeypatch.setattr(vllm_engine.importlib, "import_module", lambda name: None)
        monkeypatch.setattr(vllm_engine, "_start", stand_in)
        monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
        watchdog = Watchdog(60.0)
        try:
            return vllm_engine.start_engine("m", 64, EngineConfig(), "float32", "compute", 1, watchdog, None)
        finally:
            watchdog.stop()

    return start


def test_the_warning_is_given_at_the_start_where_others_are_hidden(starting, caplog):
    def start(*_):
        logging.getLogger("vllm").warning("a matter of its own")
        return "started"

    assert starting("0.99.0", start) == "started"
    assert [message.partition(",")[0] for message in caplog.messages] == ["vLLM 0.99.0 is installed"]


def test_an_untested_version_that_does_not_start_is_named(starting):
    def fail(*_):
        raise TypeError("no such argument")

    with pytest.raises(
        ValueError, match=r"no such argument; vLLM 0\.99\.0 is installed, and 0\.32\.0 was tested \(fewer"
    ):
        starting("0.99.0", fail)
    with pytest.raises(ValueError, match=r"no such argument \(fewer tokens need less memory"):
        starting(TESTED[-1], fail)
    assert untested(TESTED[-1]) == ""


def test_a_process_that_fails_at_the_start_has_said_why_itself(starting):
    def fail(*_):
        raise RuntimeError("WorkerProc initialization failed due to an exception in a background process.")

    with pytest.raises(ValueError, match=r"one of its processes \(engine\.tensor_parallel\) failed with the error"):
        starting(TESTED[-1], fail)


def test_a_missing_part_is_not_reported_as_a_matter_of_the_model(starting):
    def lack(*_):
        raise MissingPartError("vLLM 0.99.0 has no part")

    with pytest.raises(MissingPartError, match=r"^vLLM 0\.99\.0 has no part$"):
        starting("0.99.0", lack)
