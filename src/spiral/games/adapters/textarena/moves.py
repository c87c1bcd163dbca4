"""The legal moves of TextArena's games in TextArena's syntax; TextArena itself lists none.

Every function takes an environment and the player to act and reads the environment's fields; none of them changes them.
The catalogue says which lists are exact and which are candidates that are tried out one by one. In games with unlimited
moves (talk, bids, prices), the list is a small fixed selection.
"""

# ruff: noqa: ARG001, ARG005 (all of them take the same two arguments)

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

Moves = Callable[[Any, int], Iterable[str]]

COMPASS = tuple((dr, dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1) if (dr, dc) != (0, 0))


def fixed(*actions: str) -> Moves:
    """The same actions always."""
    return lambda env, player: actions


def blocks(env: Any, player: int) -> Iterable[str]:
    """Colonel Blotto: every division of the units among the fields."""
    fields, units = env.field_names, env.num_total_units
    for cuts in itertools.combinations(range(units + len(fields) - 1), len(fields) - 1):
        edges = (-1, *cuts, units + len(fields) - 1)
        yield "[" + " ".join(f"{f}{edges[i + 1] - edges[i] - 1}" for i, f in enumerate(fields)) + "]"


def columns(env: Any, player: int) -> Iterable[str]:
    """Connect Four: columns that are not full."""
    return [f"[col {col}]" for col, cell in enumerate(env.state.game_state["board"][0]) if cell == "."]


def cells(env: Any, player: int) -> Iterable[str]:
    """Free cells of a square board, numbered row by row (tic-tac-toe, simple Tak)."""
    return [f"[{number}]" for number in _free(env)]


def marked_cells(env: Any, player: int) -> Iterable[str]:
    """Wild tic-tac-toe: either mark in a free cell."""
    return [f"[{mark} {number}]" for number in _free(env) for mark in "XO"]


def paired_cells(env: Any, player: int) -> Iterable[str]:
    """Quantum tic-tac-toe: two different free cells."""
    return [f"[{a},{b}]" for a, b in itertools.combinations(_free(env), 2)]


def _free(env: Any) -> list[int]:
    return [number for number, (row, col) in env.cell_mapping.items() if env.state.game_state["board"][row][col] == ""]


def nested_cells(env: Any, player: int) -> Iterable[str]:
    """Ultimate tic-tac-toe: free cells of the small board that is due, or of every one that is open."""
    game = env.state.game_state
    due = game["next_micro_board"]
    for macro in range(9) if due is None else (due,):
        if game["macro_board"][macro // 3][macro % 3] == " ":
            yield from (f"[{macro} {n}]" for n in range(9) if game["board"][macro][n // 3][n % 3] == " ")


def kuhn(env: Any, player: int) -> Iterable[str]:
    """Kuhn poker: the branches of the hand's tree."""
    return [f"[{action}]" for action in env.state.game_state["current_legal_action_tree"]]


def piles(env: Any, player: int) -> Iterable[str]:
    """Nim: any number from any pile."""
    return [f"[{pile} {n}]" for pile, size in enumerate(env.state.game_state["piles"]) for n in range(1, size + 1)]


def othello(env: Any, player: int) -> Iterable[str]:
    """Othello: cells that flip something; a player without one may say anything and is skipped."""
    return [f"[{row}, {col}]" for row, col in env._valid_moves("BW"[player])] or ["[skip]"]


def liars_dice(env: Any, player: int) -> Iterable[str]:
    """Liar's Dice: a call, and bids up to the number of dice in play; TextArena allows higher ones too."""
    game = env.state.game_state
    quantity, face = game["current_bid"]["quantity"], game["current_bid"]["face_value"]
    total = sum(game["remaining_dice"].values())
    bids = itertools.product(range(max(1, quantity), total + 1), range(max(1, face), 7))
    called = ["[Call]"] if game["last_bidder_id"] is not None and quantity else []
    return called + [f"[Bid: {q}, {f}]" for q, f in bids if (q, f) != (quantity, face)]


def negotiation(env: Any, player: int) -> Iterable[str]:
    """Simple Negotiation: the answers, and offers of one to three pieces of one kind for as many of another.

    TextArena allows offers of any size and of several kinds, with talk around them.
    """
    game = env.state.game_state
    held, offer = game["player_resources"][player], game["current_offer"]
    payable = offer and all(held.get(kind, 0) >= number for kind, number in offer["requested_resources"].items())
    yield from ("[Accept]", "[Deny]") if payable else ("[Deny]",)
    for give, want in itertools.permutations(env.resource_names, 2):
        for number, price in itertools.product(range(1, min(3, held[give]) + 1), (1, 2, 3)):
            yield f"[Offer: {number} {give} -> {price} {want}]"


def facts(env: Any, player: int) -> Iterable[str]:
    """Truth and Deception: a claim while there is talk, then the guess; TextArena allows any words in the talk."""
    guessing = env.state.turn >= env.max_turns - 1
    return ("[Fact 1]", "[Fact 2]") if guessing else ("Fact 1 is correct.", "Fact 2 is correct.")


def cards_of_value(env: Any, player: int) -> Iterable[str]:
    """The game of pure strategy: the cards in hand."""
    return [f"[{env._val_to_face(card)}]" for card in env.state.game_state["player_hands"][player]]


def money(env: Any, player: int) -> Iterable[str]:
    """High Society: the money cards left."""
    return [f"[{card}]" for card in env.state.game_state["player_money"][player]]


def cards_in_hand(env: Any, player: int) -> Iterable[str]:
    """Trick taking: the positions of the cards in hand; German whist demands the suit led."""
    hand = env.state.game_state["players"][player]["hand"]
    follows = getattr(env, "_is_valid_play", lambda player, card: True)
    return [f"[play {place}]" for place, card in enumerate(hand, 1) if follows(player, card)]


def indian_poker(env: Any, player: int) -> Iterable[str]:
    """Indian poker: bets and raises of 1, 5 and 20 chips; TextArena allows any that can be paid."""
    game = env.state.game_state
    due, chips = game["highest_bet"] - game["current_bets"][player], game["player_chips"][player]
    if chips < 0:  # the ante is taken even from a player without chips, and then TextArena refuses a fold
        return []
    sizes = [size for size in (1, 5, 20) if due + size <= chips]
    if due == 0:
        return ["[check]", *(f"[bet {size}]" for size in sizes), "[fold]"]
    return [*(["[call]"] if due <= chips else []), *(f"[raise {size}]" for size in sizes), "[fold]"]


def shots(env: Any, player: int) -> Iterable[str]:
    """Battleship: cells not fired at yet."""
    board = env.state.game_state["tracking_board"][player]
    return [f"[{chr(ord('a') + r)}{c}]" for r, row in enumerate(board) for c, cell in enumerate(row) if cell == "~"]


def card_pairs(env: Any, player: int) -> Iterable[str]:
    """The memory game: two cards still face down."""
    places = itertools.product(range(env.grid_size), repeat=2)
    hidden = [place for place in places if place not in env.state.game_state["matched_positions"]]
    return [f"[{a} {b} {c} {d}]" for (a, b), (c, d) in itertools.combinations(hidden, 2)]


def breakthrough(env: Any, player: int) -> Iterable[str]:
    """Breakthrough: one step forward, diagonally only to capture."""
    size, forward = env.board_size, 1 if player == 0 else -1
    for row, col, side in itertools.product(range(size), range(size), (-1, 0, 1)):
        to = (row + forward, col + side)
        if all(0 <= place < size for place in to) and env._is_valid_move(player, row, col, *to):
            files = env._col_to_file
            yield f"[{files[col]}{row + 1}{files[to[1]]}{to[0] + 1}]"


def lines_of_action(env: Any, player: int) -> Iterable[str]:
    """Lines of Action: as many cells along a line as it holds pieces, over one's own pieces only."""
    board, own = env.state.game_state["board"], "OX"[player]
    size = len(board)
    for row, col, (dr, dc) in itertools.product(range(size), range(size), COMPASS):
        if board[row][col] != own:
            continue
        distance = env._count_pieces_on_line(row, col, dr, dc)
        path = [(row + dr * step, col + dc * step) for step in range(1, distance + 1)]
        if not all(0 <= place < size for place in path[-1]) or board[path[-1][0]][path[-1][1]] == own:
            continue
        if all(board[r][c] in ("", own) for r, c in path[:-1]):
            yield f"[{env.rc_to_coord(row, col)}{env.rc_to_coord(*path[-1])}]"


def alquerque(env: Any, player: int) -> Iterable[str]:
    """Alquerque: a step forward to an empty point, or a jump over an enemy in any direction."""
    board, (own, other), size = env.state.game_state["board"], ("RB", "BR")[player], env.BOARD_N
    for row, col, (dr, dc) in itertools.product(range(size), range(size), COMPASS):
        for reach in (1, 2):
            to = (row + dr * reach, col + dc * reach)
            if board[row][col] != own or not all(0 <= place < size for place in to) or board[to[0]][to[1]]:
                continue
            if (dr, dc) in env.forward_dirs[player] if reach == 1 else board[row + dr][col + dc] == other:
                yield f"[{_square(row, col, size)} {_square(*to, size)}]"


def _square(row: int, col: int, size: int) -> str:
    return f"{chr(ord('a') + col)}{size - row}"


def knights(env: Any, player: int) -> Iterable[str]:
    """Crusade: knights' moves."""
    return list(env._legal_moves_for_player(player))


def workers(env: Any, player: int) -> Iterable[str]:
    """Santorini: a worker's move and what it builds."""
    return [move for move in env._get_valid_moves(player).split(", ") if move]


def chopsticks(env: Any, player: int) -> Iterable[str]:
    """Chopsticks: attacks between living hands, and other divisions of one's fingers."""
    own, theirs = env.state.game_state["hands"][player], env.state.game_state["hands"][1 - player]
    pairs = itertools.product(range(2), range(2))
    attacks = [f"[attack {mine} {other}]" for mine, other in pairs if own[mine] and theirs[other]]
    total = sum(own)
    return attacks + [f"[split {n} {total - n}]" for n in range(total + 1) if [n, total - n] != own]


def ultimatum(env: Any, player: int) -> Iterable[str]:
    """The ultimatum game: every whole offer, or the answers to one."""
    game = env.state.game_state
    if game["phase"] == "offering":
        return [f"[Offer: ${amount}]" for amount in range(game["pool"] + 1)]
    return ["[Accept]", "[Reject]"]


def auction(env: Any, player: int) -> Iterable[str]:
    """The blind auction: a greeting while there is talk, then one bid or none; TextArena allows bids on several."""
    if env.state.game_state["phase"] == "conversation":
        return ["Good luck."]
    steps = range(50, env.state.game_state["remaining_capital"][player] + 1, 50)
    bids = [f"[Bid on Item {item}: {amount}]" for item in range(env.num_items) for amount in steps]
    return ["No bid.", *bids]


def dilemmas(env: Any, player: int) -> Iterable[str]:
    """The three-player prisoner's dilemma: a greeting while there is talk, then a choice for each of the others."""
    if env.state.game_state["phase"] == "conversation":
        return ["Let us all cooperate."]
    others = [other for other in range(env.state.num_players) if other != player]
    choices = itertools.product(("cooperate", "defect"), repeat=len(others))
    return [" ".join(f"[{other} {choice}]" for other, choice in zip(others, chosen, strict=True)) for chosen in choices]


def market_entry(env: Any, player: int) -> Iterable[str]:
    """The market entry game: a message while there is talk, then to enter or to stay out."""
    return ["{Let us take turns.}"] if env.state.game_state["phase"] == "conversation" else ["[E]", "[S]"]


def public_goods(env: Any, player: int) -> Iterable[str]:
    """The public goods game: a message while there is talk, then what to give."""
    if env.state.game_state["phase"] == "conversation":
        return ["{Let us all give the same.}"]
    return [f"[{tokens}]" for tokens in range(env.endowment + 1)]


def mafia(env: Any, player: int) -> Iterable[str]:
    """Secret mafia: words by day, then a living player for the vote or for what a role does by night."""
    if env.phase.name == "DAY_DISCUSSION":
        return ["I am of the village."]
    return [f"[{other}]" for other in env.state.game_state["alive_players"]]


def taboo(env: Any, player: int) -> Iterable[str]:
    """Taboo: every word of the list for a guesser, an empty clue for the other; TextArena allows any guess and clue."""
    return [f"[{word}]" for word in env.data] if env.state.role_mapping[player] == "Guesser" else ["Hm."]


SIZES = (10, 50, 200, 1000)

poker = fixed(
    "[Check]", "[Call]", "[Fold]", *(f"[Bet {size}]" for size in SIZES), *(f"[Raise {size}]" for size in SIZES)
)
"""Texas hold'em: four sizes of bet; TextArena allows any."""
golf = fixed("[draw]", "[take]", "[discard]", *(f"[swap {row} {col}]" for row in (1, 2) for col in (1, 2, 3)))
recruit = fixed("[Accept]", "[Reject]", *(f"[Propose] {letter * 8}" for letter in "ABCDE"))
"""New Recruit: the same letter for all eight issues; TextArena allows any letters."""
