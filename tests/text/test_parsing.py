"""Parsing of replies: boxes, ignored formatting, illegal replies, and every legal action."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small_games import OddState
from spiral.games import State, load_game
from spiral.models.nano.build import random_turns
from spiral.text import last_boxed, parse_action
from spiral.text.boxes import last_box
from turns import GAMES, random_states

TICTACTOE = load_game("tictactoe").initial_state()
KUHN = load_game("kuhn_poker").initial_state().apply("J").apply("Q")
STATES = random_states(60, seed=1)


@pytest.mark.parametrize(
    ("reply", "content"),
    [
        (r"\boxed{4}", "4"),
        (r"I think \boxed{3}, no, \boxed{4}.", "4"),
        (r"\boxed{a{b}c{}}", "a{b}c{}"),
        (r"\boxed{\text{bet}} done", r"\text{bet}"),
        (r"\boxed{\boxed{4}}", "4"),
        (r"\boxed{}", ""),
        ("\\boxed{\n4 }", "\n4 "),
        (r"\boxed{4", None),
        (r"\boxed{3} and then \boxed{4", None),
        (r"\boxed{{4}", None),
        (r"\Boxed{4}", None),
        ("boxed{4}", None),
        ("4", None),
        ("", None),
    ],
)
def test_the_last_box_with_balanced_braces(reply, content):
    assert last_boxed(reply) == content


@pytest.mark.parametrize(
    ("reply", "content"),
    [
        (r"\boxed {37}", "37"),
        ("\\boxed\n  { 37 }", " 37 "),
        (r"\boxed 7", "7"),
        (r"so $\boxed7$.", "7"),
        (r"\boxed 37.", "37"),
        (r"\boxed -1.5", "-1.5"),
        (r"\boxed 1,234 apples", "1,234"),
        (r"\boxed\text{Yes}", r"\text{Yes}"),
        (r"$\boxed \frac{1}{2}$", r"\frac{1}{2}"),
        (r"\boxed\frac12", r"\frac12"),
        (r"\boxed A.", "A"),
        (r"\boxed bet.", "bet"),
        (r"\boxed(2,-3)", "(2,-3)"),
        (r"\boxed[4]", "[4]"),
        (r"$\boxed 3x+1$ holds", "3x+1"),
        (r"\[\boxed 3x+1\]", "3x+1"),
        (r"\fbox{37}", "37"),
        (r"\framebox{37}", "37"),
        (r"\framebox[2cm][c]{37}", "37"),
        (r"\fcolorbox{red}{white}{37}", "37"),
        (r"\bbox[yellow, 5px]{37}", "37"),
        (r"\fbox{$\boxed{37}$}", "37"),
        (r"\boxed{3}, no, \boxed 7", "7"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{ x : x>0 \right.}", r"\left\{ x : x>0 \right."),
        (r"\boxed{37} in the \boxed{} notation", ""),
        (r"\boxed{37}, as \boxed says", "37"),
        (r"in \boxed notation it is seven", None),
        (r"in \boxed a way", None),
        (r"\boxed 3x+1 without an end", None),
        (r"\fcolorbox{red}{white", None),
        (r"\fcolorbox{red}", None),
        (r"\boxedin{4}", None),
        (r"\boxed", None),
    ],
)
def test_other_forms_of_boxes(reply, content):
    assert last_boxed(reply) == content


def test_an_unclosed_box_is_not_a_missing_box():
    assert last_box(r"so \boxed{4").content is None
    assert last_box(r"so \boxed{4").start == 3
    assert last_box("so 4") is None


@pytest.mark.parametrize("reply", [r"\boxed {bet}", r"\boxed bet", r"\fbox{bet}", r"\boxed\text{bet}", r"\boxed[bet]"])
def test_an_action_in_any_form_of_box(reply):
    assert parse_action(f"I think so. {reply}", KUHN) == "bet"


@pytest.mark.parametrize(
    "reply",
    [
        r"\boxed{bet}",
        r"\boxed{BET}",
        "\\boxed{  bet\n}",
        r"\boxed{[bet]}",
        r"\boxed{[ Bet ]}",
        r"\boxed{\text{bet}}",
        r"\boxed{\textbf{[bet]}}",
        r"\boxed{\mathrm {bet}}",
        r"\boxed{check}, no: \boxed{bet}",
        r"\boxed{\boxed{bet}}",
        r"\boxed{bet} and nothing else }{",
        r"\boxed{\textrm{bet}}",
        r"\boxed{\textsf{\textbf{\text{[bet]}}}}",
        r"\boxed{$\text{bet}$}",
        r"\boxed{\(\mathrm{bet}\)}",
        r"\boxed{{bet}}",
        r"\boxed{bet.}",
        r"\boxed{\text{bet.}}",
        r"\boxed{**bet**}",
        r"\boxed{`bet`}",
        "\\boxed{\u201cbet\u201d}",
        r"\boxed{``bet''}",
        r"\boxed{\,\text{bet}\;}",
        r"\boxed{~bet\quad}",
        r"\boxed{\textcolor{blue}{bet}}",
        r"\boxed{\color{red} bet}",
        r"\boxed{\Large\bfseries bet}",
        r"\boxed{\underline{\emph{bet}}}",
        r"\boxed{\left[\text{bet}\right]}",
        r"\boxed{\boldsymbol{\mathit{bet}}}",
        r"\[\boxed{\displaystyle \mathsf{bet}}\]",
        r"\boxed{<b>bet</b>}",
        "\\boxed{\uff42\uff45\uff54}",
        "\\boxed{\u200bbet\u00a0}",
        r"\boxed{[[bet]]}",
        r"\boxed{(bet)}",
        r"\boxed{\left(\text{bet}\right)}",
        r"\boxed{\{bet\}}",
        r"\boxed{<bet>}",
        r"\boxed{&lt;bet&gt;}",
        "\\boxed{\u3010bet\u3011}",
        "\\boxed{\u00abbet\u00bb}",
        "\\boxed{\u201ebet\u201c}",
        r"\boxed{'bet'}",
        r"\boxed{['bet']}",
        r'\boxed{"[bet]".}',
        r"\boxed{\text{'Bet.'}}",
        r"\boxed{*bet*}",
        r"\boxed{***bet***}",
        r"\boxed{```bet```}",
        r"\boxed{__bet__}",
        r"\boxed{bet!}",
        r"\boxed{bet,}",
        r"\boxed{(bet!).}",
        "\\boxed{bet\u3002}",
        r"\boxed{\operatorname{bet}}",
        r"\boxed{&nbsp;bet&nbsp;}",
        "\\boxed{\u200ebet\u200f}",
    ],
)
def test_formatting_is_ignored(reply):
    assert parse_action(reply, KUHN) == "bet"


@pytest.mark.parametrize(
    "reply",
    [
        "bet",
        r"\boxed{}",
        r"\boxed{bet",
        r"\boxed{bet} \boxed{",
        r"\boxed{bet} \boxed{raise}",
        r"\boxed{bet or check}",
        r"\boxed{bet, check}",
        r"\boxed{b e t}",
        r"\boxed{call}",
        r"\boxed{J}",
        r"\boxed{\frac{bet}{1}}",
        r"\boxed{\text{bet} \text{check}}",
        r"\boxed{{bet}{bet}}",
        r"\boxed{\textbf{bet} \rightarrow \text{bet}}",
        r"\boxed{\text{not bet}}",
        r"\boxed{\phantom{bet}}",
        r"\boxed{\bet}",
        r"\boxed{bet..}",
        r"\boxed{bet^2}",
        r"\boxed{\sqrt{bet}}",
        r"\boxed{[bet] [check]}",
        r"\boxed{(bet) (bet)}",
        r'\boxed{"bet" or "check"}',
        r"\boxed{*bet* *check*}",
        r"\boxed{bet/check}",
        r"\boxed{bet \to check}",
        r"\boxed{(bet}",
        r"\boxed{bet)}",
        r"\boxed{I bet}",
        r"\boxed{bet?}",
        r"\boxed{()}",
        r"\boxed{!}",
        r"\boxed{[" + "(" * 40 + "bet" + ")" * 40 + "]}",
        "\\boxed{\u202etbe}",
    ],
)
def test_illegal_replies(reply):
    assert parse_action(reply, KUHN) is None


def test_a_cell_needs_its_exact_number():
    after = TICTACTOE.apply("4")
    assert parse_action(r"\boxed{4}", TICTACTOE) == "4"
    assert parse_action(r"\boxed{4}", after) is None
    assert parse_action(r"\boxed{04}", after) is None
    assert parse_action(r"\boxed{5.0}", after) is None
    assert parse_action(r"\boxed{9}", after) is None


@pytest.mark.parametrize(
    "content",
    [
        r"\textbf{\text{4}}",
        r"\textrm{4}",
        "$4$",
        "{4}",
        "4.",
        r"\fbox{4}",
        r"\mathbf{[4]}",
        "(4)",
        "((4)).",
        r"\left(4\right)",
        r"\{4\}",
        "'4'",
        '"4"',
        "*4*",
        "\u00a04\u3000",
        "\uff14",
        "\uff3b\uff14\uff3d",
        "4\u3002",
        r"\(4\)",
        r"\mathtt{4}\,",
    ],
)
def test_formatting_around_a_cell_is_ignored(content):
    assert parse_action(rf"\boxed{{{content}}}", TICTACTOE) == "4"


@pytest.mark.parametrize(
    "content",
    [
        "4^2",
        "4\u00b2",
        r"\frac{4}{1}",
        r"\sqrt{4}",
        "-4",
        "4,",
        "4 5",
        "4.4",
        r"0\!4",
        "4!",
        "4)",
        "04",
        "+4",
        "\u2463",
        "\u0664",
        "cell 4",
        "#4",
        "4;",
        "4 (four)",
        "(4) (4)",
        "[4][4]",
        "4=4",
        "4/1",
        "(4, 5)",
        "{4}{5}",
        "4\u20445",
    ],
)
def test_mathematics_around_a_cell_is_illegal(content):
    assert parse_action(rf"\boxed{{{content}}}", TICTACTOE) is None


@dataclasses.dataclass(frozen=True)
class Spelled(State):
    """A state whose legal actions are spelled as given."""

    actions: tuple[str, ...]
    current_player = 0

    def legal_actions(self):
        return self.actions

    def apply(self, action):
        return self

    def observation(self, player, style="full"):
        return ""

    def information_state(self, player):
        return ""

    def returns(self):
        return (0.0, 0.0)


@pytest.mark.parametrize(
    ("content", "action"),
    [
        ("b", "b"),
        ("B", "B"),
        ("a", "A"),
        ("(4)", "(4)"),
        ("4", "4"),
        ("[4]", "[4]"),
        ("((4))", "(4)"),
        ("'(4)'", "(4)"),
        ("$4$", "4"),
        ("x!", "x!"),
        ("x", "x"),
        ("Ab", None),
        ("<(1, 2)>", "(1, 2)"),
    ],
)
def test_a_spelling_that_is_legal_is_that_action(content, action):
    state = Spelled(("b", "B", "A", "4", "(4)", "[4]", "x", "x!", "aB", "AB", "(1, 2)"))
    assert parse_action(rf"\boxed{{{content}}}", state) == action


OFFER = "offer: 2 wheat -> 1 wood"


@pytest.mark.parametrize(
    "content",
    [
        r"\text{offer: 2 wheat} \rightarrow \text{1 wood}",
        r"\text{offer: 2 wheat} \to \textbf{1 wood}",
        r"$\text{Offer: 2 wheat $\rightarrow$ 1 wood}$",
        r"\textbf{offer:}\ 2\ \text{wheat} \longrightarrow 1\ \text{wood}.",
        r"\text{offer: } 2 \text{ wheat} \implies 1 \text{ wood}",
        r"\mathrm{offer}\colon 2~\mathrm{wheat} \Rightarrow 1~\mathrm{wood}",
        "offer: 2 wheat \u2192 1 wood",
        r"\left[\text{offer: 2 wheat} \to \text{1 wood}\right]",
        r"\text{\textit{offer: 2 wheat} -\textgreater{} 1 wood}",
        "offer: 2 wheat => 1 wood",
        "offer: 2 wheat --> 1 wood",
        "offer: 2 wheat -&gt; 1 wood",
        "'offer: 2 wheat \u2014> 1 wood'",
        r"(offer: 2 wheat \xrightarrow{} 1 wood)",
        "offer\uff1a 2 wheat \u279c 1 wood",
    ],
)
def test_formatting_in_an_offer_is_ignored(content):
    state = next(s for s in random_states(300, seed=3, games=("simple_negotiation",)) if OFFER in s.legal_actions())
    assert parse_action(rf"\boxed{{{content}}}", state) == OFFER


def test_an_incomplete_or_repeated_offer_is_illegal():
    state = next(s for s in random_states(300, seed=3, games=("simple_negotiation",)) if OFFER in s.legal_actions())
    assert parse_action(r"\boxed{\text{offer: 2 wheat} \gets \text{1 wood}}", state) is None
    assert parse_action(rf"\boxed{{\text{{{OFFER}}} \text{{{OFFER}}}}}", state) is None
    assert parse_action(r"\boxed{\text{2 wheat} = \text{1 wood}}", state) is None


def test_an_overlong_box_is_illegal():
    assert parse_action(rf"\boxed{{bet{' ' * 200_000}}}", KUHN) is None


class _Hive(OddState):
    def legal_actions(self):
        return ("bA1 wA3", "bA1 wA3\\", "bA1 \\wA3")


def test_an_action_may_end_in_a_backslash():
    for action in _Hive().legal_actions():
        assert parse_action(rf"Hence \boxed{{{action}}}.", _Hive()) == action
    assert parse_action(r"\boxed{bA1 wA3\ }", _Hive()) == "bA1 wA3\\"
    assert parse_action(r"\boxed{bA1 wA3\}, or \boxed{wA1\}", _Hive()) is None
    assert parse_action(r"\boxed{bA1 wA3", _Hive()) is None


def test_there_is_no_action_at_chance_or_after_the_end():
    dealing = load_game("kuhn_poker").initial_state()
    over = KUHN.apply("bet").apply("fold")
    assert dealing.is_chance
    assert over.is_terminal
    assert parse_action(r"\boxed{J}", dealing) is None
    assert parse_action(r"\boxed{check}", over) is None


def test_a_negotiation_action_may_contain_talk():
    state = next(s for s in random_states(50, seed=2, games=("simple_negotiation",)) if "pass" in s.legal_actions())
    said = parse_action(r"\boxed{Your   ore is fine. [Pass]}", state)
    assert said == "Your ore is fine. [Pass]"
    assert state.apply(said).log[-1] == ("pass", "Your ore is fine.")
    assert parse_action(r"\boxed{[pass]}", state) == "pass"
    assert parse_action(r"\boxed{[pass] [pass]}", state) is None


@pytest.mark.parametrize("spec", GAMES)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_legal_action_is_parsed(spec, seed):
    rng = random.Random(seed)
    for state in random_turns(load_game(spec), rng):
        actions = state.legal_actions()
        for action in rng.sample(actions, min(len(actions), 25)):
            assert parse_action(f"Some thought.\n\\boxed{{{action}}}", state) == action
            assert parse_action(f"\\boxed{{\\text{{ [{action.upper()}] }}}}.", state) == action


RENDERINGS = (
    r"\boxed{%s}",
    r"\boxed {%s}",
    "\\boxed\n{ %s }",
    r"$\boxed{%s}$.",
    r"\[\boxed{\text{%s}}\]",
    r"\boxed{{%s}}",
    r"\boxed{$\text{%s}$}",
    r"\boxed{[%s]}",
    r"\boxed{(%s)}",
    r"\boxed{'%s'}",
    r'\boxed{"%s"}',
    "\\boxed{\u201c%s\u201d}",
    r"\boxed{%s.}",
    r"\boxed{\textbf{%s}}",
    r"\boxed{\text{\textit{[%s]}}}",
    r"\boxed{**%s**}",
    r"\boxed{`%s`}",
    "\\boxed{\u00a0%s\u200b}",
    r"\fbox{\Large %s}",
    r"First \boxed{nothing}, then **\boxed{%s}** in the end.",
)


@pytest.mark.parametrize("spec", GAMES)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_rendering_of_an_action_is_parsed(spec, seed):
    rng = random.Random(seed)
    for state in random_turns(load_game(spec), rng):
        action = rng.choice(state.legal_actions())
        for rendering in RENDERINGS:
            assert parse_action(rendering % action, state) == action, rendering


PIECES = st.sampled_from(["\\boxed{", "\\text{", "}", "{", "[", "]", "offer:", "3 wood -> 2 ore", "bet", "4", " "])


@settings(max_examples=120, deadline=None)
@given(
    reply=st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=3))).map("".join)),
    state=st.sampled_from(STATES),
)
def test_any_text_gives_a_legal_action_or_none(reply, state):
    for text in (reply, f"\\boxed{{{reply}}}"):
        action = parse_action(text, state)
        assert action is None or state.is_legal(action)
        if action is not None:
            assert state.apply(action) != state
