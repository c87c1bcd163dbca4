"""Loading games by name, and the errors for names and parameters that do not exist."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import pickle
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import spiral
from spiral.games import Game, game_names, load_game, registry
from spiral.games.testing import GameContractError, check_game
from spiral.games.tictactoe import TicTacToe


def test_the_native_games_come_first_in_a_fixed_order() -> None:
    assert game_names()[:5] == ("tictactoe", "kuhn_poker", "simple_negotiation", "leduc_poker", "connect_four")


@pytest.mark.parametrize("name", game_names())
def test_every_game_is_described_and_a_value(name: str) -> None:
    game = load_game(name)
    assert game.name == name
    assert game.spec == name
    assert game.summary
    assert "\n" not in game.summary
    assert game.rules
    assert pickle.loads(pickle.dumps(game)) == game
    assert hash(load_game(name)) == hash(game)
    with pytest.raises(dataclasses.FrozenInstanceError):
        game.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("kuhn_poker", "kuhn_poker"),
        (" kuhn_poker( hands = 5 ) ", "kuhn_poker(hands=5)"),
        ("kuhn_poker(hands=1)", "kuhn_poker"),
        ("kuhn_poker()", "kuhn_poker"),
        ("simple_negotiation(turns=4)", "simple_negotiation(turns=4)"),
    ],
)
def test_specs_are_canonical(spec: str, canonical: str) -> None:
    game = load_game(spec)
    assert game.spec == canonical
    assert load_game(game.spec) == game


def test_parameters_may_be_given_as_keywords() -> None:
    assert load_game("kuhn_poker", hands=5) == load_game("kuhn_poker(hands=5)")


@pytest.mark.parametrize(
    ("spec", "params", "message"),
    [
        ("kuhn_pokr", {}, r"there is no game 'kuhn_pokr'; did you mean 'kuhn_poker'\? Known games: "),
        ("zzzz", {}, r"there is no game 'zzzz'\. Known games: tictactoe, kuhn_poker"),
        ("", {}, "got game ''; expected a name such as 'tictactoe'"),
        ("kuhn_poker(hands=5", {}, r"got game 'kuhn_poker\(hands=5'; expected a name"),
        ("kuhn_poker(5)", {}, "expected parameters as name=value, found '5'"),
        ("kuhn_poker", {"hand": 5}, "has no parameter 'hand'; it has: hands"),
        ("tictactoe(rows=4)", {}, "has no parameter 'rows'; it has: size, line"),
        ("leduc_poker(size=4)", {}, "has no parameter 'size'; it has: none"),
        ("kuhn_poker", {"hands": "5"}, "got hands='5'; expected a value of type int, such as 1"),
        ("kuhn_poker", {"hands": True}, "got hands=True; expected a value of type int"),
        ("kuhn_poker(hands=five)", {}, "got hands='five'; expected a value of type int"),
        ("kuhn_poker(hands=0)", {}, "got hands=0; expected 1 or more"),
        ("kuhn_poker(hands='5,6')", {}, "got hands='5,6'; expected a value of type int"),
    ],
)
def test_wrong_specs_say_what_is_wrong(spec: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_game(spec, **params)


def test_a_package_adds_games_through_its_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        importlib.metadata.EntryPoint("noughts", "spiral.games.tictactoe:TicTacToe", registry.ENTRY_POINT_GROUP),
        importlib.metadata.EntryPoint("broken", "spiral.games.tictactoe:MARKS", registry.ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert game_names()[-2:] == ("broken", "noughts")
    game: Game = load_game("noughts")
    assert game == TicTacToe()
    with pytest.raises(ValueError, match=r"'broken' is 'spiral\.games\.tictactoe:MARKS', which is not a subclass"):
        load_game("broken")
    listed = registry.own_games()
    assert (list(listed), listed["noughts"]) == (list(game_names()), None)
    assert "which is not a subclass" in str(listed["broken"])


MY_GAME = """
import dataclasses
from spiral.games import Game
from spiral.games.tictactoe import TicTacToe, TicTacToeState

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(Game):
    size: int = 3
    def initial_state(self):
        return TicTacToeState()

@dataclasses.dataclass(frozen=True, kw_only=True)
class Named(Mine):
    name = "mine"

@dataclasses.dataclass(frozen=True, kw_only=True)
class Impostor(Mine):
    name = "tictactoe"

@dataclasses.dataclass(frozen=True, kw_only=True)
class Unfinished(Game):
    pass

@dataclasses.dataclass(frozen=True, kw_only=True)
class Demanding(Mine):
    heap: int

class Outer:
    Inner = Mine

number = 1
"""


@pytest.fixture
def my_game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "my_game.py").write_text(MY_GAME)
    (tmp_path / "my_broken_game.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_game", None)


def test_an_unregistered_game_is_named_by_its_import_path(my_game: None) -> None:
    game = load_game("my_game:Mine(size=4)")
    assert game.name == "my_game:Mine"
    assert game.spec == "my_game:Mine(size=4)"
    assert load_game(game.spec) == game == load_game("my_game:Mine", size=4)
    assert load_game("my_game:Mine").spec == "my_game:Mine"
    assert load_game("my_game:Outer.Inner").spec == "my_game:Mine", "another way to it gives the same game"
    assert load_game("my_game:TicTacToe") == TicTacToe()
    assert load_game("spiral.games.tictactoe:TicTacToe").spec == "tictactoe"
    assert "my_game:Mine" not in game_names()


def test_a_name_of_its_own_must_be_registered(my_game: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, taken in (("Named", "mine"), ("Impostor", "tictactoe")):
        with pytest.raises(
            ValueError, match=f"'my_game:{name}' gives itself the name '{taken}', under which `load_game`"
        ):
            load_game(f"my_game:{name}")
    points = [importlib.metadata.EntryPoint("mine", "my_game:Named", registry.ENTRY_POINT_GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert load_game("my_game:Named").spec == "mine"
    assert load_game("mine") == load_game("my_game:Named")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "no_such_module:Nim",
            "No module named 'no_such_module'; if no_such_module.py is in this directory, run with PYTH",
        ),
        (
            "my_game:Nim",
            "cannot be imported from 'my_game:Nim': AttributeError: module 'my_game' has no attribute 'Nim'",
        ),
        ("my_game:number", "game 'my_game:number' is 'my_game:number', which is not a subclass of spiral.games.Game"),
        ("my_game:Unfinished", "'my_game:Unfinished', which is abstract; write its initial_state"),
        ("my_broken_game:Nim", "cannot be imported from 'my_broken_game:Nim': ZeroDivisionError: division by zero"),
        (":Nim", "cannot be imported from ':Nim': ValueError: Empty module name"),
        ("my_game:", "cannot be imported from 'my_game:': AttributeError"),
        ("my_game:Mine(size=big)", "got size='big'; expected a value of type int"),
    ],
)
def test_an_import_path_without_a_game_is_explained(spec: str, message: str, my_game: None) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_game(spec)


def test_the_contract_asks_that_a_game_is_found_by_its_spec(my_game: None) -> None:
    check_game(load_game("my_game:Mine(size=4)"), playouts=3)
    demanding = sys.modules["my_game"].Demanding(heap=3)
    with pytest.raises(GameContractError, match=r"load_game\(game\.spec\) raised .*give every parameter a default"):
        check_game(demanding, playouts=3)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Another library's games instead of OpenSpiel's: one that is available and one that is not."""
    module = types.ModuleType("other_games")
    reasons = {"noughts": None, "crosses": "it is too cross", "liars_dice": None}
    module.names = lambda: reasons  # type: ignore[attr-defined]

    def game_class(name: str) -> type[Game]:
        if reasons.get(name, "never heard of it") is not None:
            raise ValueError(f"game 'openspiel/{name}' is not available: {reasons.get(name, 'never heard of it')}")
        return TicTacToe

    module.game_class = game_class  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "other_games", module)
    monkeypatch.setattr(registry, "ADAPTERS", {"openspiel": "other_games"})
    return module


def test_adapters_bring_games_under_a_prefix(library: types.ModuleType) -> None:
    assert registry.adapter_games() == {
        "openspiel/noughts": None,
        "openspiel/crosses": "it is too cross",
        "openspiel/liars_dice": None,
    }
    assert load_game("openspiel/noughts") == TicTacToe()
    assert not any("/" in name for name in game_names())
    with pytest.raises(ValueError, match="game 'openspiel/noughts' has no parameter 'rows'; it has: size, line"):
        load_game("openspiel/noughts(rows=3)")
    with pytest.raises(ValueError, match="'openspiel/crosses' is not available: it is too cross"):
        load_game("openspiel/crosses")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("openspiel/nouhgts", "openspiel/noughts"),
        ("Openspiel/noughts", "openspiel/noughts"),
        ("noughts", "openspiel/noughts"),
        ("liars_dice", "openspiel/liars_dice"),
        ("Liars_Dise", "openspiel/liars_dice"),
        ("leduc_pokr", "leduc_poker"),
    ],
)
def test_a_slip_in_a_name_is_recognised(name: str, meant: str, library: types.ModuleType) -> None:
    with pytest.raises(
        ValueError, match=rf"there is no game '{name}'; did you mean '{meant}'\? Known games: tictactoe"
    ):
        load_game(name)


@pytest.mark.parametrize("name", ["openspiel/crosse", "crosses", "openspiel/leduc_poker", "openspiel/"])
def test_nothing_is_suggested_that_is_not_there(name: str, library: types.ModuleType) -> None:
    with pytest.raises(ValueError, match=rf"there is no game '{name}'\. Known games: .* `spiral games` lists"):
        load_game(name)


def test_an_adapter_without_its_library_says_so_whatever_is_asked(library: types.ModuleType) -> None:
    library.names()["noughts"] = library.names()["liars_dice"] = "it is not installed"
    with pytest.raises(ValueError, match="game 'openspiel/go' is not available: never heard of it"):
        load_game("openspiel/go")
    with pytest.raises(ValueError, match=r"there is no game 'liars_dice'\. Known"):
        load_game("liars_dice")


def test_native_games_are_loaded_without_any_adapter() -> None:
    code = (
        "import sys; from spiral.games import load_game; load_game('leduc_poker');"
        " sys.exit(any(name in sys.modules for name in ('pyspiel', 'textarena', 'spiral.games.adapters')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_list_has_the_games_of_adapters_too(library: types.ModuleType) -> None:
    listed = spiral("games", "--json").json
    rows = {row["name"]: row for row in listed["games"]}
    assert list(rows)[: len(game_names())] == list(game_names())
    assert listed["unavailable"] == [{"name": "openspiel/crosses", "reason": "it is too cross"}]
    (line,) = [line for line in spiral("games").out.splitlines() if "it is too cross" in line]
    assert line == "Not available from openspiel (spiral games --all names them): it is too cross (1)"
    lines = spiral("games", "--all").out.splitlines()
    (row,) = [line.split() for line in lines if "it is too cross" in line]
    assert row == ["openspiel", "it", "is", "too", "cross", "crosses"]


def test_every_game_of_the_real_adapters_is_listed_once_as_here_or_not() -> None:
    listed = spiral("games", "--json").json
    here = [row["name"] for row in listed["games"]]
    absent = [item["name"] for item in listed["unavailable"]]
    assert len({*here, *absent}) == len(here) + len(absent)
    assert {*here, *absent} == {*game_names(), *registry.adapter_games()}
    assert all(item["reason"] and "\n" not in item["reason"] for item in listed["unavailable"])
    assert {name.partition("/")[0] for name in absent} == {"openspiel", "textarena"}
