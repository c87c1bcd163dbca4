"""Names in recipes lead to what is built in, installed, or a user's own."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from spiral.core import plugins

BUILTIN = {"returns": min, "sign": max}


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with one reward, which also tries to replace a built-in one."""
    points = [
        EntryPoint("root", "math:sqrt", "spiral.rewards"),
        EntryPoint("sign", "math:sqrt", "spiral.rewards"),
        EntryPoint("broken", "math:no_such_function", "spiral.rewards"),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point for point in points if point.group == group])


def test_a_name_is_built_in_or_a_module_and_attribute() -> None:
    assert plugins.resolve("rewards", "sign", BUILTIN) is max
    assert plugins.resolve("rewards", "builtins:sum", BUILTIN) is sum
    assert plugins.resolve("rewards", "pathlib:Path.cwd", BUILTIN)() == Path.cwd()


@pytest.mark.usefixtures("_installed")
def test_entry_points_are_found_and_replace_nothing_built_in() -> None:
    assert plugins.resolve("rewards", "root", BUILTIN)(9.0) == 3.0
    assert plugins.resolve("rewards", "sign", BUILTIN) is max
    assert plugins.names("rewards", BUILTIN) == ("returns", "sign", "broken", "root")
    assert plugins.names("losses", BUILTIN) == ("returns", "sign")


@pytest.mark.usefixtures("_installed")
def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no 'returm' among the rewards; did you mean 'returns'") as error:
        plugins.resolve("rewards", "returm", BUILTIN)
    assert "Known rewards: returns, sign, and from installed packages broken, root; or give" in str(error.value)


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:reward", "cannot be imported: ModuleNotFoundError.*no_such_module.py is in this directory"),
        ("math:no_such_function", "cannot be imported: AttributeError"),
        ("broken", "cannot be imported from 'math:no_such_function': AttributeError"),
        ("math:pi", "is a float; expected a class or function for the rewards"),
        (":", "cannot be imported: ValueError"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plugins.resolve("rewards", name, BUILTIN)


def test_a_module_that_ends_the_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaving_module.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="cannot be imported: SystemExit: 3"):
        plugins.resolve("rewards", "leaving_module:reward", BUILTIN)


def _width(values: list[float], *, width: int, depth: int = 1) -> None:
    """A function with one argument and two options."""


def test_options_are_those_of_the_signature() -> None:
    plugins.check_options("mine:width", _width, {"width": 3}, positional=1)
    plugins.check_options("builtins:dict", dict, {"anything": 3})
    plugins.check_options("mine:any", lambda **options: None, {"anything": 3})
    with pytest.raises(ValueError, match="'mine:width' has no option 'widht'; did you mean 'width'"):
        plugins.check_options("mine:width", _width, {"widht": 3}, positional=1)
    with pytest.raises(ValueError, match="'mine:width' has no option 'values'; its options: width, depth"):
        plugins.check_options("mine:width", _width, {"values": 3}, positional=1)
    with pytest.raises(ValueError, match="'mine:width' needs the option 'width'"):
        plugins.check_options("mine:width", _width, {"depth": 3}, positional=1)
