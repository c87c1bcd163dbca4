"""Describes a model's prompts and the ends of its replies, for `spiral check`."""

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
from spiral.text.tokens import any_of, special_tokens, vocabulary
from spiral.text.turn_ends import EndToken, ignored_ends

USER_TEXT = "Which of the numbers 2 and 3 is even? Put your answer inside \\boxed{}."
OTHER_QUESTION = "Which number is odd?"

_ROLE = re.compile(
    r"\A[\s#\[<|]*(?:system|developer|user|human|instruction|assistant)\b[\]>|]*:?[ \t]*(?:\n|\Z)", re.IGNORECASE
)
"""The name of a role as templates write it before a message."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemplateReport:
    """How a prompt template renders a question and a reply."""

    template: str
    """`prompt.template`; "chat" is the model's own."""
    beginning: tuple[str, ...]
    """The special tokens that begin every prompt."""
    ends: tuple[EndToken, ...]
    """The tokens that end a reply, with the reason."""
    ignored_ends: tuple[str, ...]
    """Declared ends of sequence that are ordinary tokens and do not end a reply, as defaults often are."""
    turn_end: str
    """The text that the template writes after an answer; "" for none."""
    generation_prompt: str
    """The text between the question and the reply."""
    system_role: bool
    """Whether the template takes a system message."""
    default_system: str
    """The system prompt that the template adds by itself; "" for none."""
    thinking: str
    """The family of the thinking delimiters in the template; "" for none."""
    opens_thought: bool
    """Whether a reply begins inside a thought."""
    reads_enable_thinking: bool
    """Whether `prompt.thinking` changes the text around the question."""
    thinking_variables: tuple[str, ...]
    """The template variables that turn thinking on and off."""
    question_survives: bool
    """Whether the prompt holds the question unchanged."""
    game_prompt: str
    """The whole prompt for the first position of tic-tac-toe."""
    user_prompt: str
    """The whole prompt for `USER_TEXT`."""
    warnings: list[str]

    def lines(self) -> list[str]:
        """Lines for a terminal, without the prompts and warnings."""
        ends = ", ".join(f"{end.text!r} ({end.id}: {end.reason})" for end in self.ends) or "none"
        thought = self.thinking or "no delimiters"
        ignored = (
            f"; declared as ends, but ordinary tokens: {', '.join(self.ignored_ends)}" if self.ignored_ends else ""
        )
        switch = f", on request ({', '.join(self.thinking_variables)})" if self.thinking_variables else ""
        own = "" if not self.default_system else f"; by default it adds {self.default_system!r}"
        return [
            f"prompt.template: {self.template}; prompts begin with {' '.join(self.beginning) or 'no special token'}",
            f"tokens that end a reply: {ends}{ignored}",
            f"after an answer: {self.turn_end!r}; before a reply: {self.generation_prompt!r}",
            f"system message: {'yes' if self.system_role else 'no; a system prompt goes before the question'}{own}",
            f"thinking: {thought}{', opened by the prompt' if self.opens_thought else ''}{switch}",
            f"the question in the prompt: {'unchanged' if self.question_survives else 'with other spacing'}",
        ]


def describe_template(tokenizer: Any, config: PromptConfig, declared_ends: Collection[int] = ()) -> TemplateReport:
    """Renders trial prompts with a tokenizer and reports what its template does.

    Args:
        tokenizer: A Hugging Face tokenizer.
        config: The prompt settings.
        declared_ends: Ids that the model's generation configuration lists as ends of sequence.

    Raises:
        ValueError: `ChatCodec` refuses the tokenizer or its template.
    """
    codec = ChatCodec(tokenizer, config, declared_ends)
    chat = config.template == "chat"
    prompt = codec.render_question(QUESTION)
    before, _, generation_prompt = prompt.rpartition(QUESTION[-20:])
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
    codec.encode(observation, game)  # raises ValueError when the tokenizer loses part of the prompt
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
        thinking=_family(tokenizer, prompt, codec.opened),
        opens_thought=codec.opens_thinking,
        reads_enable_thinking=chat and codec.reads_enable_thinking,
        thinking_variables=thinking_variables(tokenizer) if chat else (),
        question_survives=QUESTION in prompt,
        game_prompt=game_prompt,
        user_prompt=codec.render_question(USER_TEXT),
        warnings=[],
    )
    return dataclasses.replace(report, warnings=_warnings(report, tokenizer, ids, config))


def _warnings(report: TemplateReport, tokenizer: Any, ids: list[int], config: PromptConfig) -> list[str]:
    """Warnings about what works but is probably not intended."""
    found = []
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        found.append(f"prompts begin twice with {tokenizer.bos_token!r}")
    if not report.ends:
        found.append("nothing says how a turn ends, so every reply would use its whole budget")
    known = any_of({*special_tokens(tokenizer).values(), *(end.text for end in report.ends)})
    if report.turn_end.strip() and known.search(report.turn_end) is None:
        found.append(
            f"the template ends an answer with {report.turn_end.strip()!r}, which is not a token of this tokenizer, so"
            " replies do not end there"
        )
    if report.default_system:
        found.append(
            "the template adds its own system prompt; prompt.system replaces it"
            if report.system_role
            else "the template adds its own system prompt"
        )
    if (tag := unknown_family(report.thinking)) is not None:
        found.append(
            f"the prompt ends with {tag.delimiters[0]!r}, so a reply counts as a thought up to {tag.delimiters[1]!r}"
        )
    if config.thinking and not report.opens_thought and _closes_thought(report.generation_prompt):
        found.append("prompt.thinking is true, but the template closes the thought before the reply begins")
    if not report.question_survives:
        found.append("the template changes the spacing of the question")
    pieces = [] if report.template == "chat" else _missing_marks(report.template, tokenizer)
    if pieces:
        found.append(
            f"prompt.template {report.template!r} uses {', '.join(pieces)}, not a single token in this tokenizer"
        )
    return found + tokenizer_warnings(tokenizer, report.game_prompt)


def _turn_end(tokenizer: Any) -> str:
    exchange = [{"role": "user", "content": "-"}, {"role": "assistant", "content": REPLY}]
    try:
        return render_chat(tokenizer, exchange).rpartition(REPLY)[2]
    except ValueError:  # a template may refuse such an exchange
        return ""


def _default_system(tokenizer: Any, before: str, other: str) -> str:
    """The text that a template writes before every question, without tokens and names of roles.

    Args:
        tokenizer: A Hugging Face tokenizer.
        before: The prompt up to the end of `QUESTION`.
        other: The prompt for `OTHER_QUESTION`.
    """
    before = before.removesuffix(QUESTION[:-20])
    same = zip(before, other, strict=False)
    before = before[: next((count for count, (a, b) in enumerate(same) if a != b), len(before))]
    marks = any_of(map(str, tokenizer.added_tokens_decoder.values()))
    pieces = [_ROLE.sub("", piece).strip() for piece in marks.split(before)]
    return "\n".join(piece for piece in pieces if piece)


def _family(tokenizer: Any, prompt: str, unknown: str) -> str:
    """The thinking family that the prompt opens, or else the one whose delimiters the template or tokenizer has."""
    opened = opened_family(prompt.rpartition(QUESTION[-20:])[2])
    if opened is not None or unknown:
        return opened.name if opened is not None else unknown
    for texts in (str(tokenizer.chat_template or ""), vocabulary(tokenizer)):
        for family in FAMILIES:
            if family.delimiters and all(text in texts for text in family.delimiters[:2]):
                return family.name
    return ""


def _closes_thought(generation_prompt: str) -> bool:
    """Whether the prompt closes a thought directly before the reply."""
    head = split_reply(generation_prompt).head
    return bool(head) and not generation_prompt.removeprefix(head).strip() and opened_family(head[:-1]) is not None


def _missing_marks(template: str, tokenizer: Any) -> list[str]:
    """The marks of a plain template that are not single tokens."""
    known = vocabulary(tokenizer)
    return sorted({mark for mark in re.findall(r"<\|[^|]+\|>", "".join(PLAIN[template])) if mark not in known})


def _text(tokenizer: Any, id_: int) -> str:
    return f"{id_} ({repr(tokenizer.decode([id_])) if 0 <= id_ < len(tokenizer) else 'no token'})"
