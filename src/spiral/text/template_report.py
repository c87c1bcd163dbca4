"""What a model's prompts look like and how its replies end, in words that a person can check before a run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from typing import Any

from spiral.games import load_game
from spiral.text.chat import ChatCodec
from spiral.text.chat_template import QUESTION, REPLY, render_chat, takes_system
from spiral.text.prompts import PLAIN, PromptConfig
from spiral.text.thinking import FAMILIES, opened_family, split_reply, unknown_family
from spiral.text.thinking_switch import thinking_variables
from spiral.text.tokenizer_check import tokenizer_warnings
from spiral.text.tokens import any_of, special_tokens
from spiral.text.turn_ends import EndToken, ignored_ends

USER_TEXT = "Which of the numbers 2 and 3 is even? Put your answer inside \\boxed{}."
OTHER_QUESTION = "Which number is odd?"

_ROLE = re.compile(
    r"\A[\s#\[<|]*(?:system|developer|user|human|instruction|assistant)\b[\]>|]*:?[ \t]*(?:\n|\Z)", re.IGNORECASE
)
"""The name of a role, as templates write it before its message."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemplateReport:
    """What a prompt template does with a question."""

    template: str
    """`prompt.template`: "chat" for the model's own."""
    beginning: tuple[str, ...]
    """The tokens that begin every prompt, such as the beginning of the text."""
    ends: tuple[EndToken, ...]
    """Every token that ends a reply, and why."""
    ignored_ends: tuple[str, ...]
    """Declared ends of sequence that are ordinary tokens, and end nothing: defaults of configurations often are."""
    turn_end: str
    """What the template puts after an answer; "" where it puts nothing there."""
    generation_prompt: str
    """What stands between the question and the reply."""
    system_role: bool
    """Whether the template takes a system message."""
    default_system: str
    """The system prompt that the template puts in by itself; "" where there is none."""
    thinking: str
    """The family of the thinking delimiters that the template spells; "" where it spells none."""
    opens_thought: bool
    """Whether a reply begins inside a thought."""
    reads_enable_thinking: bool
    """Whether `prompt.thinking` changes the prompt's frame."""
    thinking_variables: tuple[str, ...]
    """The variables of the template by which it does."""
    question_survives: bool
    """Whether the question stands in the prompt to the letter."""
    game_prompt: str
    """The whole prompt for the first position of tic-tac-toe."""
    user_prompt: str
    """The whole prompt for `USER_TEXT`."""
    warnings: list[str]

    def lines(self) -> list[str]:
        """The report for a terminal, without the prompts and warnings."""
        ends = ", ".join(f"{end.text!r} ({end.id}: {end.reason})" for end in self.ends) or "none"
        thought = self.thinking or "no delimiters of its own"
        ignored = f"; declared, but ordinary tokens: {', '.join(self.ignored_ends)}" if self.ignored_ends else ""
        asked = f", on request ({', '.join(self.thinking_variables)})" if self.thinking_variables else ""
        own = "" if not self.default_system else f"; by itself it says {self.default_system!r}"
        return [
            f"prompt.template: {self.template}; prompts begin with {' '.join(self.beginning) or 'no special token'}",
            f"a reply ends at: {ends}{ignored}",
            f"after an answer: {self.turn_end!r}; before a reply: {self.generation_prompt!r}",
            f"system message: {'yes' if self.system_role else 'no, a system prompt goes before the question'}{own}",
            f"thinking: {thought}{', opened by the prompt' if self.opens_thought else ''}{asked}",
            f"the question stands in the prompt: {'to the letter' if self.question_survives else 'with other spacing'}",
        ]


def describe_template(tokenizer: Any, config: PromptConfig, declared_ends: Collection[int] = ()) -> TemplateReport:
    """Renders prompts with a tokenizer and says what its template does.

    Args:
        tokenizer: a Hugging Face tokenizer.
        config: how games are put.
        declared_ends: ids that the model's generation configuration lists as ends of sequence.

    Raises:
        ValueError: the template cannot be used, as `ChatCodec` says.
    """
    codec = ChatCodec(tokenizer, config, declared_ends)
    chat = config.template == "chat"
    asked = codec.render_question(QUESTION)
    before, _, generation_prompt = asked.rpartition(QUESTION[-20:])
    ids = codec.encode_question(USER_TEXT).tolist()
    special = special_tokens(tokenizer)
    beginning = []
    for id_ in ids:
        if id_ not in special:
            break
        beginning.append(special[id_])
    game = load_game("tictactoe")
    observation = game.initial_state().observation(0, config.observation)
    game_prompt = codec.render(observation, game)
    codec.encode(observation, game)  # refuses a tokenizer that does not hold it
    report = TemplateReport(
        template=config.template,
        beginning=tuple(beginning),
        ends=codec.ends,
        ignored_ends=tuple(_text(tokenizer, id_) for id_ in ignored_ends(tokenizer, declared_ends)),
        turn_end=_turn_end(tokenizer) if chat else PLAIN[config.template][1],
        generation_prompt=generation_prompt,
        system_role=takes_system(tokenizer) if chat else True,
        default_system=_default_system(tokenizer, before, codec.render_question(OTHER_QUESTION))
        if chat and config.system is None
        else "",
        thinking=_family(tokenizer, asked, codec.opened),
        opens_thought=codec.opens_thinking,
        reads_enable_thinking=chat and codec.reads_enable_thinking,
        thinking_variables=thinking_variables(tokenizer) if chat else (),
        question_survives=QUESTION in asked,
        game_prompt=game_prompt,
        user_prompt=codec.render_question(USER_TEXT),
        warnings=[],
    )
    return dataclasses.replace(report, warnings=_warnings(report, tokenizer, ids, config))


def _warnings(report: TemplateReport, tokenizer: Any, ids: list[int], config: PromptConfig) -> list[str]:
    """What is legal and probably not meant."""
    found = []
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        found.append(f"prompts begin twice with {tokenizer.bos_token!r}")
    if not report.ends:
        found.append("nothing says how a turn ends: every reply would go on to the end of its budget")
    known = any_of({*special_tokens(tokenizer).values(), *(end.text for end in report.ends)})
    if report.turn_end.strip() and known.search(report.turn_end) is None:
        found.append(
            f"the template ends an answer with {report.turn_end.strip()!r}, which is no token of this tokenizer;"
            " replies do not end there"
        )
    if report.default_system:
        found.append(
            "the template puts in a system prompt of its own; prompt.system replaces it"
            if report.system_role
            else "the template puts in a system prompt of its own"
        )
    if (tag := unknown_family(report.thinking)) is not None:
        found.append(
            f"the prompt ends with {tag.delimiters[0]!r}: a reply is taken for a thought up to"
            f" {tag.delimiters[1]!r}, and has no answer before it"
        )
    if config.thinking and not report.opens_thought and _closes_thought(report.generation_prompt):
        found.append("prompt.thinking is true, but the template closes the thought before it begins")
    if not report.question_survives:
        found.append("the template changes the spacing of the question")
    pieces = [] if report.template == "chat" else _missing_marks(report.template, tokenizer)
    if pieces:
        found.append(f"{', '.join(pieces)} of prompt.template {report.template!r} are no tokens of this tokenizer")
    return found + tokenizer_warnings(tokenizer, report.game_prompt)


def _turn_end(tokenizer: Any) -> str:
    exchange = [{"role": "user", "content": "-"}, {"role": "assistant", "content": REPLY}]
    try:
        return render_chat(tokenizer, exchange).rpartition(REPLY)[2]
    except ValueError:  # a template may refuse such an exchange
        return ""


def _default_system(tokenizer: Any, before: str, other: str) -> str:
    """What a template says before a question whatever it is, without tokens and the names of roles.

    Args:
        tokenizer: a Hugging Face tokenizer.
        before: the prompt up to the end of `QUESTION`.
        other: the prompt for `OTHER_QUESTION`.
    """
    before = before.removesuffix(QUESTION[:-20])
    same = zip(before, other, strict=False)
    before = before[: next((count for count, (a, b) in enumerate(same) if a != b), len(before))]
    marks = any_of(map(str, tokenizer.added_tokens_decoder.values()))
    pieces = [_ROLE.sub("", piece).strip() for piece in marks.split(before)]
    return "\n".join(piece for piece in pieces if piece)


def _family(tokenizer: Any, prompt: str, unknown: str) -> str:
    """The family that the prompt opens a thought of, or else whose delimiters template or tokenizer have."""
    opened = opened_family(prompt.rpartition(QUESTION[-20:])[2])
    if opened is not None or unknown:
        return opened.name if opened is not None else unknown
    places = (str(tokenizer.chat_template or ""), tokenizer.get_vocab())
    for place in places:
        for family in FAMILIES:
            if family.delimiters and all(text in place for text in family.delimiters[:2]):
                return family.name
    return ""


def _closes_thought(generation_prompt: str) -> bool:
    """Whether a thought ends where the reply begins."""
    head = split_reply(generation_prompt).head
    return bool(head) and not generation_prompt.removeprefix(head).strip() and opened_family(head[:-1]) is not None


def _missing_marks(template: str, tokenizer: Any) -> list[str]:
    """The marks of a plain template that a tokenizer spells in pieces."""
    known = tokenizer.get_vocab()
    return sorted({mark for mark in re.findall(r"<\|[^|]+\|>", "".join(PLAIN[template])) if mark not in known})


def _text(tokenizer: Any, id_: int) -> str:
    return f"{id_} ({repr(tokenizer.decode([id_])) if 0 <= id_ < len(tokenizer) else 'no token'})"
