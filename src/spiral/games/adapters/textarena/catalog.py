"""The catalogue of TextArena's games: which can be played here, and why the others cannot.

After TextArena 0.7.4 (https://github.com/LeonGuertler/TextArena), in the size that an environment has under its plain
id; other sizes and games for one player are left out. Where the rules allow several numbers of players, the game has a
parameter `players`. Briscola and Golf have none: with more than two, TextArena fails at the end of a game, or never
comes to it. The table is fixed instead of read at run time, because that would import every game, and some of them
start downloads or ask for keys when they are imported.
"""

from __future__ import annotations

import dataclasses

from spiral.games.adapters.textarena import moves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One playable game."""

    summary: str
    moves: moves.Moves
    players: range = range(2, 3)
    """The numbers of players that it can be played by."""
    default_players: int = 0
    """The number of players where none is chosen; 0 for the smallest."""
    ranked: bool = False
    """Whether returns are spaced evenly from the last to the first, so that they sum to zero for any number."""
    tried: bool = False
    """Whether `moves` gives candidates to be tried one by one, instead of exactly the legal moves."""
    dealt: bool = True
    """Whether the game draws random numbers."""
    max_turns: int = 1000
    """The largest number of turns, where `turns_each` does not say it."""
    turns_each: int = 0
    """The number of turns that each player has in a game; 0 where it varies."""
    must_hold: str = ""
    """A pattern that legal actions match, for games that punish a bad action without calling it invalid."""
    shared: tuple[str, ...] = ()
    """Attributes that never change and are too large to copy with every move."""

    @property
    def usual_players(self) -> int:
        """The number of players where none is chosen."""
        return self.default_players or self.players[0]


_STEPS = moves.fixed("[up]", "[down]", "[left]", "[right]")
_STEP = r"\[(up|down|left|right|w|a|s|d)\]"

PLAYABLE = {
    "Snake-v0": Entry(
        summary="snakes on a grid move at once; who survives longer or eats more wins",
        moves=_STEPS,
        players=range(2, 10),
        max_turns=42,
        must_hold=_STEP,
    ),
    "ConnectFour-v0": Entry(summary="four in a row", moves=moves.columns, dealt=False, max_turns=42),
    "PigDice-v0": Entry(summary="roll on or hold; first to 100", moves=moves.fixed("[roll]", "[hold]")),
    "LiarsDice-v0": Entry(
        summary="bids on hidden dice, five each, until all but one have none",
        moves=moves.liars_dice,
        players=range(2, 16),
        ranked=True,
    ),
    "TruthAndDeception-v0": Entry(
        summary="one side knows which of two facts is true and misleads the other with talk",
        moves=moves.facts,
        max_turns=6,
        shared=("facts_data",),
    ),
    "SimpleNegotiation-v0": Entry(
        summary="trade of five resources with talk; the larger gain wins", moves=moves.negotiation, max_turns=11
    ),
    "Alquerque-v0": Entry(summary="steps and jumps on a 5 x 5 board", moves=moves.alquerque, dealt=False, max_turns=60),
    "Battleship-v0": Entry(summary="hidden ships on a 5 x 5 sea", moves=moves.shots, max_turns=50),
    "Breakthrough-v0": Entry(
        summary="race of pawns on an 8 x 8 board", moves=moves.breakthrough, dealt=False, max_turns=210
    ),
    "Briscola-v0": Entry(summary="Italian trick taking", moves=moves.cards_in_hand, max_turns=40),
    "Chopsticks-v0": Entry(summary="fingers on two hands", moves=moves.chopsticks, dealt=False, max_turns=41),
    "ColonelBlotto-v0": Entry(
        summary="20 units on three fields, nine rounds", moves=moves.blocks, dealt=False, max_turns=18
    ),
    "Crusade-v0": Entry(summary="captures by knights' moves", moves=moves.knights, dealt=False, max_turns=40),
    "GameOfPureStrategy-v0": Entry(
        summary="13 secret bids for 13 prizes (Goofspiel)", moves=moves.cards_of_value, max_turns=26
    ),
    "GermanWhist-v0": Entry(summary="trick taking in two halves", moves=moves.cards_in_hand, max_turns=52),
    "Golf-v0": Entry(summary="low cards in a hidden grid of six", moves=moves.golf, tried=True),
    "HighSociety-v0": Entry(summary="secret bids for ten prestige cards", moves=moves.money),
    "IndianPoker-v0": Entry(summary="poker with the other side's card in sight", moves=moves.indian_poker),
    "IteratedMatchingPennies-v0": Entry(
        summary="ten rounds of matching pennies", moves=moves.fixed("[heads]", "[tails]"), dealt=False, max_turns=20
    ),
    "IteratedPrisonersDilemma-v0": Entry(
        summary="ten rounds with talk; the higher total wins",
        moves=moves.fixed("[Cooperate]", "[Defect]"),
        dealt=False,
        max_turns=40,
    ),
    "IteratedRockPaperScissors-v0": Entry(
        summary="nine rounds of rock, paper, scissors",
        moves=moves.fixed("[rock]", "[paper]", "[scissors]"),
        dealt=False,
        max_turns=18,
    ),
    "IteratedTwoThirdsAverage-v0": Entry(
        summary="ten guesses at two thirds of the average guess",
        moves=moves.fixed(*(f"[{guess}]" for guess in range(101))),
        dealt=False,
        max_turns=20,
    ),
    "IteratedUltimatumGame-v0": Entry(
        summary="five splits of 50 dollars", moves=moves.ultimatum, dealt=False, max_turns=12
    ),
    "KuhnPoker-v0": Entry(summary="three hands of Kuhn poker", moves=moves.kuhn, max_turns=9),
    "LinesOfAction-v0": Entry(
        summary="connect all of one's pieces", moves=moves.lines_of_action, dealt=False, max_turns=1400
    ),
    "MemoryGame-v0": Entry(summary="pairs of hidden cards on a 4 x 4 grid", moves=moves.card_pairs, max_turns=40),
    "NewRecruit-v0": Entry(
        summary="a contract of eight issues; who gains more points wins",
        moves=moves.recruit,
        tried=True,
        dealt=False,
        max_turns=12,
    ),
    "Nim-v0": Entry(summary="piles of 3, 4 and 5; the last object wins", moves=moves.piles, dealt=False, max_turns=12),
    "Othello-v0": Entry(summary="flanked pieces change sides", moves=moves.othello, dealt=False, max_turns=128),
    "Poker-v0": Entry(
        summary="ten hands of no-limit hold'em", moves=moves.poker, players=range(2, 16), ranked=True, tried=True
    ),
    "QuantumTicTacToe-v0": Entry(
        summary="tic-tac-toe with marks in two cells at once", moves=moves.paired_cells, dealt=False, max_turns=81
    ),
    "SantoriniBaseFixed-v0": Entry(summary="move, build, climb", moves=moves.workers, dealt=False, max_turns=110),
    "SimpleBlindAuction-v0": Entry(summary="talk, then secret bids on five items", moves=moves.auction, max_turns=8),
    "SimpleTak-v0": Entry(summary="connect two opposite edges, 4 x 4", moves=moves.cells, dealt=False, max_turns=16),
    "Surround-v0": Entry(
        summary="growing trails; who crashes later wins",
        moves=_STEPS,
        players=range(2, 10),
        max_turns=42,
        must_hold=_STEP,
    ),
    "TicTacToe-v0": Entry(summary="three in a row", moves=moves.cells, dealt=False, max_turns=9),
    "UltimateTicTacToe-v0": Entry(
        summary="nine boards of tic-tac-toe in one", moves=moves.nested_cells, dealt=False, max_turns=81
    ),
    "WildTicTacToe-v0": Entry(
        summary="three in a row of either mark", moves=moves.marked_cells, dealt=False, max_turns=9
    ),
    "MarketEntryGame-v0": Entry(
        summary="talk, then enter a market or not that pays for two at most; five rounds",
        moves=moves.market_entry,
        players=range(3, 16),
        default_players=4,
        dealt=False,
        turns_each=20,
    ),
    "PublicGoodsGame-v0": Entry(
        summary="talk, then give to a common pot or keep; three rounds",
        moves=moves.public_goods,
        players=range(3, 16),
        dealt=False,
        turns_each=12,
    ),
    "SecretMafia-v0": Entry(
        summary="two hidden teams talk and vote; one of them kills by night", moves=moves.mafia, players=range(6, 16)
    ),
    "Taboo-v0": Entry(
        summary="two teams guess words from clues with forbidden words",
        moves=moves.taboo,
        players=range(4, 16, 2),
        turns_each=12,
        shared=("data",),
    ),
    "ThreePlayerGOPS-v0": Entry(
        summary="13 secret bids for 13 prizes (Goofspiel)",
        moves=moves.cards_of_value,
        players=range(3, 4),
        turns_each=13,
    ),
    "ThreePlayerIPD-v0": Entry(
        summary="five rounds of the prisoner's dilemma with talk, with each of two others",
        moves=moves.dilemmas,
        players=range(3, 4),
        dealt=False,
        turns_each=10,
    ),
    "ThreePlayerTicTacToe-v0": Entry(
        summary="four in a row on 5 x 5", moves=moves.cells, players=range(3, 4), dealt=False, max_turns=25
    ),
}

_WORDS = "needs the word lists of nltk, which are a download"
_KEY = "asks a judging model behind an OpenRouter key"
_SYNTAX = "its source is not valid Python 3.11"
_FILES = "files that it reads are missing from the package"

_REASONS = {
    _WORDS: "Codenames DontSayIt Hangman LetterAuction SpellingBee WordChains WordLadder WordSearch Wordle",
    _KEY: "Debate GuessWho ScenarioPlanning TwentyQuestions",
    _SYNTAX: "Checkers Chess IteratedStagHunt Klondike ReverseTicTacToe UltimateTexasHoldem",
    _FILES: "ScorableGames UsedCarNegotiation",
    "has no turn limit, so that a game may never end": "SettlersOfCatan SpiteAndMalice Stratego",
    "what it deals depends on the order of files on the disk, so that no seed fixes it": "TwoDollar",
    "the move that wins fails inside TextArena 0.7.4": "Tak",
    "every move fails inside TextArena 0.7.4": "CharacterConclave",
}

NOT_PLAYABLE = {f"{name}-v0": reason for reason, names in _REASONS.items() for name in names.split()}
