r"""Texts of OpenSpiel's games: rules, observations, and names of actions that fit into `\boxed{}`.

OpenSpiel's own texts are made for programs: "pile:3, take:1;" or "[Private: 4][Round 1][Ante: 1 3]". Ten games get
rules and observations written here; the others get OpenSpiel's own texts, tidied, and its one-line description. The
rules follow the parameters of the game and were checked against OpenSpiel's behaviour.

The other games have no rules here; a model has to know them by name.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Params = Mapping[str, Any]

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_PREFIX = re.compile(r"^(?:chance outcome:? ?|player: ?-?\d+ action: ?|player=-?\d+ move=|\d+ - )", re.IGNORECASE)
"""Prefixes of OpenSpiel's action names that a player need not repeat."""
_RENAMED = {
    "connect_four": (re.compile(r"^[xo](\d+)$"), r"\1"),
    "go": (re.compile(r"^[BW] "), ""),
    "phantom_go": (re.compile(r"^[BW] "), ""),
    "nim": (re.compile(r"^pile:(\d+), take:(\d+);$"), r"take \2 from pile \1"),
}
_MARKS = {
    "amazons": ("X", "O"),
    "antichess": ("black", "white"),
    "backgammon": ("x", "o"),
    "breakthrough": ("b", "w"),
    "checkers": ("o", "+"),
    "chess": ("black", "white"),
    "clobber": ("o", "x"),
    "connect_four": ("x", "o"),
    "crazyhouse": ("black", "white"),
    "dark_chess": ("black", "white"),
    "dark_hex": ("x", "o"),
    "go": ("black, X", "white, O"),
    "gomoku": ("b", "w"),
    "hex": ("x", "o"),
    "kriegspiel": ("black", "white"),
    "latent_ttt": ("x", "o"),
    "lines_of_action": ("x", "o"),
    "mnk": ("x", "o"),
    "othello": ("x", "o"),
    "phantom_go": ("black, X", "white, O"),
    "phantom_ttt": ("x", "o"),
    "rbc": ("black", "white"),
    "tic_tac_toe": ("x", "o"),
    "twixt": ("x", "o"),
    "ultimate_tic_tac_toe": ("x", "o"),
    "xiangqi": ("capital letters", "small letters"),
}
"""The pieces of player 0 and player 1."""


def tidy(text: str) -> str:
    """Without colours, trailing spaces and empty lines around."""
    lines = [line.rstrip() for line in _ANSI.sub("", text).split("\n")]
    return "\n".join(lines).strip("\n")


def one_line(text: str) -> str:
    """Rows joined by slashes, runs of spaces by one."""
    return "/".join(" ".join(line.split()) for line in text.split("\n") if line.strip())


def action_names(game: str, written: Sequence[str]) -> tuple[str, ...]:
    """Short and different names for the actions of one position, given what OpenSpiel calls them.

    Replies are read without regard to case, so "bxc3" and "Bxc3" in one position become "bxc3 (1)" and "Bxc3 (2)".
    """
    names = [_action_name(game, text) for text in written]
    if len({name.casefold() for name in names}) == len(names):
        return tuple(names)
    count = Counter(name.casefold() for name in names)
    seen: Counter[str] = Counter()
    different = []
    for name in names:
        key = name.casefold()
        seen[key] += 1
        different.append(f"{name} ({seen[key]})" if count[key] > 1 else name)
    return tuple(different)


@functools.lru_cache(maxsize=100_000)
def _action_name(game: str, written: str) -> str:
    name = _PREFIX.sub("", " ".join(written.split()))
    if game in _RENAMED:
        pattern, replacement = _RENAMED[game]
        name = pattern.sub(replacement, name)
    return name or written


def rules(game: str, params: Params) -> str | None:
    """The rules of one of the games known here, for these parameters; None for the others."""
    if game not in _RULES:
        return None
    extra = _WORDS[game](params) if game in _WORDS else {}
    return _RULES[game].format(**params, **extra)


def view(game: str, params: Params, text: str, player: int) -> str | None:
    """An observation for a reader, from OpenSpiel's text; None for games without a view here."""
    return _VIEWS[game](_Seen(text=text, player=player, params=params)) if game in _VIEWS else None


def player_line(game: str, player: int) -> str:
    """The line with the numbers of both players, and their pieces where they have marks."""
    marks = [f" ({mark})" for mark in _MARKS.get(game, ())] or ["", ""]
    return f"You are seat {player}{marks[player]}, your opponent is seat {1 - player}{marks[1 - player]}."


def listed(actions: Sequence[str]) -> str:
    """Separated by commas, or by semicolons where names have commas in them."""
    return ("; " if any("," in action for action in actions) else ", ").join(actions)


_RULES = {
    "breakthrough": (
        "On a board of {rows} rows and {columns} columns players take turns moving one piece. Seat 0 moves first; its"
        " pieces (b) start at the top and move down, towards row 1. Seat 1's (w) move up, towards row {rows}. A piece"
        " moves one square forward, straight or diagonally, onto an empty square; it captures only diagonally. Whoever"
        " first reaches the last row on the other side, or captures every opposing piece, wins. The action b7c6 moves"
        " the piece on b7 to c6; a star marks a capture."
    ),
    "connect_four": (
        "Players take turns dropping a disc into a column of a board with {rows} rows and {columns} columns, where it"
        " falls to the lowest empty cell. The first player with {x_in_row} discs in a row, column or diagonal wins; a"
        " full board without such a line is a draw. An action is the number of a column; 0 is the leftmost."
    ),
    "hex": (
        "Players take turns placing a stone on an empty cell; stones never move. Every row is drawn half a cell further"
        " to the right than the one above it, and a cell touches its two neighbours in the row, the cells above and"
        " above right, and the cells below and below left. Seat 0 (x) wins with a chain of touching stones from the top"
        " row to the bottom row, seat 1 (o) with one from the leftmost column to the rightmost. An action names a"
        " column by letter and a row by number; a1 is the top left cell.{swapping}"
    ),
    "kuhn_poker": (
        "The deck holds the cards 0, 1 and 2; 2 is the highest. Each player puts 1 chip into the pot and is dealt one"
        " card that the other does not see. Seat 0 acts first. Players may Pass or Bet 1 chip; after a bet, to Pass is"
        " to fold and to Bet is to call. A fold gives the pot to the other player, otherwise the higher card wins it."
    ),
    "leduc_poker": (
        "The deck holds two cards each of J, Q and K; K is the highest. Each player puts 1 chip into the pot and is"
        " dealt one card that the other does not see. There are two betting rounds, with a public card turned up"
        " between them; seat {starting_player} acts first in both. To Call is to match the other's chips, or to check"
        " when nothing is owed; to Raise is to call and put in 2 chips more in the first round, 4 in the second, at"
        " most two raises a round; to Fold gives the pot away. In the end a card that pairs the public card wins,"
        " otherwise the higher card, and equal cards split the pot.{mapping}"
    ),
    "liars_dice": (
        "Each player rolls {rolled} with {dice_sides} faces and hides the result. Players take turns making higher"
        " bids. The bid 2-3 claims that at least 2 of all {table} dice on the table show a 3; a die that shows"
        " {dice_sides} counts as any face. A higher bid is {higher}. Instead of bidding, a player may say Liar of the"
        " last bid: all dice are shown, and whoever made that bid wins if it is true and loses if it is not."
    ),
    "nim": (
        "The game begins with piles of objects of these sizes: {sizes}. Players take turns removing one or more objects"
        " from a single pile. Whoever takes the very last object {fate}."
    ),
    "othello": (
        "Players take turns placing a disc on an empty square of an 8x8 board so that one or more straight lines of the"
        " other's discs lie between the new disc and another of the player's own; all discs so enclosed change sides. A"
        " player without such a move passes. When neither can move, the one with more discs wins; equal numbers are a"
        " draw. An action names a column by letter and a row by number."
    ),
    "pig": (
        "In a turn a player may roll a die with {diceoutcomes} faces as often as wanted. A roll of 1 loses the turn's"
        " points and ends the turn; any other {gain} to the turn's points. To stop adds the turn's points to the"
        " player's score and ends the turn. The first player with a score of {winscore} wins; after {horizon} decisions"
        " without a winner the game is a draw."
    ),
    "tic_tac_toe": (
        "Players take turns marking an empty cell of a 3x3 board. The first player with three marks in a row, column or"
        " diagonal wins; a full board without such a line is a draw. The action x(0,2) marks row 0, column 2: the top"
        " right cell."
    ),
}
"""Braces hold the game's parameters, and words that `_WORDS` derives from them."""


def _liars_dice_words(params: Params) -> dict[str, object]:
    higher = "a larger quantity of any face, or the same quantity of a higher face"
    if params["bidding_rule"] == "reset-quantity":
        higher = "any quantity of a higher face, or a larger quantity of the same face"
    dice = params["numdice"]
    return {"rolled": "one die" if dice == 1 else f"{dice} dice", "table": 2 * dice, "higher": higher}


_WORDS: dict[str, Callable[[Params], dict[str, object]]] = {
    "hex": lambda params: {
        "swapping": " Seat 1 may answer the first stone with swap, which takes it over." if params["swap"] else ""
    },
    "leduc_poker": lambda params: {
        "mapping": " A Fold when nothing is owed and a Raise beyond the limit count as Call."
        if params["action_mapping"]
        else ""
    },
    "liars_dice": _liars_dice_words,
    "nim": lambda params: {
        "sizes": params["pile_sizes"].replace(";", ", "),
        "fate": "loses" if params["is_misere"] else "wins",
    },
    "pig": lambda params: {"gain": "roll adds 1 point" if params["piglet"] else "roll adds its number"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
    """OpenSpiel's text for a player."""

    text: str
    player: int
    params: Params


def _breakthrough_view(seen: _Seen) -> str:
    """A space between a row's number and its squares."""
    width = int(seen.params["columns"])
    rows = [line.strip() for line in seen.text.split("\n")]
    return "The board:\n" + "\n".join(f"{row[:-width]:>2} {row[-width:]}" for row in rows)


def _connect_four_view(seen: _Seen) -> str:
    """Columns numbered at the top."""
    columns = range(seen.params["columns"])
    width = len(str(columns[-1]))
    rows = [list(map(str, columns)), *(list(line) for line in seen.text.split("\n"))]
    drawn = "\n".join(" ".join(f"{cell:>{width}}" for cell in row) for row in rows)
    return f"The board, columns numbered at the top:\n{drawn}"


def _hex_view(seen: _Seen) -> str:
    """Columns lettered at the top, rows numbered at the side."""
    rows = seen.text.split("\n")
    header = " ".join(chr(ord("a") + column) for column in range(len(rows[0].split())))
    return "The board:\n" + "\n".join([f"   {header}", *(f"{row:>2} {line}" for row, line in enumerate(rows, 1))])


def _kuhn_view(seen: _Seen) -> str:
    """From `0bp`: the card, then the moves."""
    return f"Your card: {seen.text[0]}." if seen.text else "Your card is not dealt yet."


def _leduc_view(seen: _Seen) -> str | None:
    """From `[Private: 4][Round 2][Public: 1][Ante: 3 3]`; two cards of a rank, unless suits are left out."""
    fields = dict(re.findall(r"\[(\w+):? ([^\]]*)\]", seen.text))
    if not {"Private", "Round", "Ante"} <= set(fields):
        return None
    own, public = int(fields["Private"]), int(fields.get("Public", -1))
    if own < 0:
        return "Your card is not dealt yet."
    per_rank = 1 if seen.params["suit_isomorphism"] else 2
    paid = fields["Ante"].split()
    shown = f" Public card: {'JQK'[public // per_rank]}." if public >= 0 else ""
    return (
        f"Your card: {'JQK'[own // per_rank]}.{shown} Betting round {fields['Round']}."
        f" Chips put in: {paid[seen.player]} by you, {paid[1 - seen.player]} by your opponent."
    )


def _liars_dice_view(seen: _Seen) -> str:
    """From `25 1-4 4-2`: the dice, then the bids. A die not rolled yet is -1."""
    dice, count = seen.text.partition(" ")[0], seen.params["numdice"]
    if "-" in dice:
        return "Your dice are not all rolled yet."
    shown = " ".join(dice) if len(dice) == count else dice
    return f"Your die shows {shown}." if count == 1 else f"Your dice show {shown}."


def _nim_view(seen: _Seen) -> str:
    """From `(1): 1 3 0 7`."""
    sizes = seen.text.partition(": ")[2].split()
    return "Now: " + ", ".join(f"{size} in pile {pile}" for pile, size in enumerate(sizes, 1)) + "."


def _pig_view(seen: _Seen) -> str | None:
    """From `Scores: 6 0, Turn total: 4`."""
    found = re.match(r"Scores: (\d+) (\d+), Turn total: (\d+)\nCurrent player: (\d)", seen.text)
    if found is None:
        return None
    own, other = found[1 + seen.player], found[2 - seen.player]
    whose = "your" if int(found[4]) == seen.player else "your opponent's"
    return f"Your score: {own}. Your opponent's score: {other}. Points of {whose} turn: {found[3]}."


_VIEWS: dict[str, Callable[[_Seen], str | None]] = {
    "breakthrough": _breakthrough_view,
    "connect_four": _connect_four_view,
    "hex": _hex_view,
    "kuhn_poker": _kuhn_view,
    "leduc_poker": _leduc_view,
    "liars_dice": _liars_dice_view,
    "nim": _nim_view,
    "pig": _pig_view,
}
