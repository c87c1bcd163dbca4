"""Thinking delimiters of every family: an unfinished thought holds no answer and no move."""

import numpy as np
import pytest

from chat_templates import CHATML, HARMONY, Family
from chat_templates import FAMILIES as TOKENIZERS
from spiral.evaluation.reasoning.grading import grade
from spiral.evaluation.reasoning.grading.extraction import find_answer
from spiral.games import load_game
from spiral.policies.endpoint.reply import without_template_tokens
from spiral.text import ChatCodec, PromptConfig, parse_action, split_reply
from spiral.text.template_report import describe_template
from spiral.text.thinking import FAMILIES, count_thinking_tokens, opened_delimiter
from spiral.text.turn_ends import end_tokens

KUHN = load_game("kuhn_poker").initial_state().apply("J").apply("Q")
ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"
DELIMITERS = {
    "think": ("<think>", "</think>"),
    "magistral": ("[THINK]", "[/THINK]"),
    "harmony": (ANALYSIS, FINAL),
    "harmony's commentary": ("<|channel|>commentary to=functions.f <|constrain|>json<|message|>", FINAL),
    "harmony after a call": (f"{ANALYSIS}a<|end|><|start|>assistant<|channel|>commentary<|message|>", FINAL),
    "harmony, special tokens left out": ("analysisWe ", "assistantfinal"),
    "seed": ("<seed:think>", "</seed:think>"),
    "reasoning": ("<reasoning>", "</reasoning>"),
    "REASONING": ("<REASONING>", "</REASONING>"),
    "thinking": ("<thinking>", "</thinking>"),
    "reflection": ("<reflection>", "</reflection>"),
    "thought": ("<thought>", "</thought>"),
    "Thought": ("<Thought>", "</Thought>"),
    "scratchpad": ("<scratchpad>", "</scratchpad>"),
    "SCRATCHPAD": ("<SCRATCHPAD>", "</SCRATCHPAD>"),
    "openthoughts": ("<|begin_of_thought|>", "<|end_of_thought|>\n\n<|begin_of_solution|>"),
    "longcat": ("<longcat_think>", "</longcat_think>"),
    "cohere": ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    "kimi": ("◁think▷", "◁/think▷"),
    "apertus": ("<|inner_prefix|>", "<|inner_suffix|>"),
    "gemma": ("<|channel>thought\n", "<channel|>"),
    "granite": ("Here is my thought process:", "Here is my response:"),
    "solar": ("<|think|>", "<|end|><|begin|>assistant<|content|>"),
    "s1": ("<|im_start|>think\n", "<|im_start|>answer\n"),
    "medgemma": ("<unused94>thought\n", "<unused95>"),
    **{
        name: (f"<{name}>", f"</{name}>")
        for name in (
            "thoughts",
            "analysis",
            "cot",
            "antThinking",
            "inner_monologue",
            "inner_thoughts",
            "reason",
            "internal_monologue",
            "chain_of_thought",
            "rationale",
        )
    },
    **{f"{name}, between bars": (f"<|{name}|>", f"</{name}>") for name in ("thinking", "reasoning", "thought")},
    "granite, shortened": ("Here's my thought process:", "Here's my response:"),
}
ORDERED = {"granite", "granite, shortened", "harmony, special tokens left out", "solar"}
"""Families whose closing delimiter counts only inside a thought."""


def test_every_family_is_tested():
    assert {family.name for family in FAMILIES} <= set(DELIMITERS)
    assert all(family.source for family in FAMILIES)


@pytest.mark.parametrize("name", DELIMITERS)
def test_only_a_box_outside_thoughts_counts(name):
    opening, closing = DELIMITERS[name]
    for unfinished in (
        f"{opening}I bet: \\boxed{{bet}}",
        f"{opening}\\boxed{{bet}}\n",
        f"{opening}a{closing}\\boxed{{check}}\n{opening if 'left out' not in name else '<think>'}\\boxed{{bet}}",
        f"{opening}The answer is 37.",
    ):
        assert (parse_action(unfinished, KUHN), find_answer(unfinished)) == (None, (None, False))
        assert not split_reply(unfinished).closed
        assert not grade(unfinished, "37")
    finished = f"{opening}maybe \\boxed{{check}}{closing}\n\\boxed{{bet}}"
    assert parse_action(finished, KUHN) == "bet"
    assert find_answer(f"{opening}\\boxed{{1}}{closing}The answer is 37.") == ("37", False)
    assert parse_action(f"{opening}\\boxed{{check}}{closing}none", KUHN) is None
    assert parse_action(f"{opening}a{closing}\\boxed{{check}} {opening if 'left out' not in name else ''}b{closing}"
                        "\\boxed{bet}", KUHN) == "bet"  # fmt: skip
    split = split_reply(finished)
    assert (split.closed, split.delimited) == (True, True)
    assert "\\boxed{check}" in split.thinking
    assert split.head + split.answer == finished


@pytest.mark.parametrize("name", DELIMITERS)
def test_a_prompt_may_have_opened_the_thought(name):
    opening, closing = DELIMITERS[name]
    reply = f"maybe \\boxed{{check}}{closing}\\boxed{{bet}}"
    assert split_reply("\\boxed{bet}", opening).answer == ""
    assert split_reply(reply, opening).answer.endswith("\\boxed{bet}")
    assert "check" not in split_reply(reply, opening).answer
    assert opened_delimiter(f"assistant\n{opening}" if "left out" not in name else opening)
    assert opened_delimiter(f"assistant\n{opening}a{closing}\n") == ""
    if name not in ORDERED:  # ordinary words close nothing that was not opened
        assert parse_action(reply, KUHN) == "bet"
        assert parse_action(f"\\boxed{{bet}}{closing}", KUHN) is None


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        # Opened twice, closed once, as where the prompt and the reply both open it; other families' tags inside.
        ("<think><think>a</think>\\boxed{bet}", "bet"),
        ("<think>a <think>b</think> \\boxed{check}</think>\\boxed{bet}", "bet"),
        ("<thinking>a<reflection>b</reflection>\\boxed{bet}", None),
        ("<thinking>a<reflection>b</reflection></thinking>\\boxed{bet}", "bet"),
        ("<think>in <reasoning> tags, they say</think>\\boxed{bet}", "bet"),
        ("<think>not </reasoning> \\boxed{bet}", None),
        # A closing tag that is spelled inside the thought, in quotes.
        ("<think>I close it with `</think>` and \\boxed{bet}", None),
        ('<think>then "</think>", then \\boxed{check}</think>\\boxed{bet}', "bet"),
        ('<think>so "bet"</think>"yes": \\boxed{bet}', "bet"),
        # Tags that are only spoken of, after the answer.
        ("\\boxed{bet} (no <think> tags needed)", "bet"),
        ("<think>a</think>\\boxed{bet}. I used the <think> tag.", "bet"),
        ("<think>a</think>\\boxed{bet}, after my </think> tag", "bet"),
        ("<think>a</think>\\boxed{bet} `<think>`", "bet"),
        ("I bet \\boxed{bet} without any [THINK] block", "bet"),
        # A thought that begins again is one.
        ("<think>a</think>\\boxed{bet}<think>", None),
        ("<think>a</think>\\boxed{bet}\n<think>Wait", None),
        ("\\boxed{bet} Wait, let me <think> again: \\boxed{check}", None),
        # Tags in any case, with spaces and attributes; other words and empty elements open nothing.
        ("<THINK>\\boxed{bet}", None),
        ("[think]\\boxed{bet}", None),
        ("<Thinking>\\boxed{bet}", None),
        ('<think budget="low">\\boxed{bet}', None),
        ("<Think effort=high >\\boxed{check}</think>\\boxed{bet}", "bet"),
        ("< think >\\boxed{bet}", None),
        ("< think >\\boxed{check}< / THINK >\\boxed{bet}", "bet"),
        ("<START_THINKING>\\boxed{bet}", None),
        ("<START_THINKING>\\boxed{check}<END_THINKING>\\boxed{bet}", "bet"),
        ("<antthinking>\\boxed{bet}", None),
        ("<think/>\\boxed{bet}", "bet"),
        ("<think />\\boxed{bet}", "bet"),
        ("<thinker>\\boxed{bet}", "bet"),
        ("<no_think>\\boxed{bet}", "bet"),
        ("<analysis-of-it>\\boxed{bet}", "bet"),
        ("1 < 2, I think > 3: \\boxed{bet}", "bet"),
        ("<|end|>\\boxed{bet}<|end|>", "bet"),
        ("<|think|>\\boxed{check}<|end|>\\boxed{bet}<|end|>", "bet"),
        ("<|thinking|>\\boxed{check}<|/thinking|>\\boxed{bet}", "bet"),
        ("<|reasoning|>\\boxed{check}<|end_of_reasoning|>\\boxed{bet}", "bet"),
        # Cut off in the midst of harmony's header.
        ("<|channel|>analysis", None),
        ("<|channel|>analysis \\boxed{bet}", None),
        ("<|channel|>\\boxed{bet}", None),
        ("<|channel|>final<|message|>\\boxed{bet}", "bet"),
        ("<|channel|>final <|constrain|>json<|message|>\\boxed{bet}", "bet"),
        ("<|channel|>analysis<|message|>a<|end|>\\boxed{bet}", None),
        ("The analysis shows: \\boxed{bet}", "bet"),
        ("analysis: \\boxed{bet}", "bet"),
        ("\\boxed{bet}. Here is my response: bet", "bet"),
    ],
)
def test_which_move_a_reply_makes(reply, action):
    assert parse_action(reply, KUHN) == action
    assert (find_answer(reply)[0]) == action


# Tokens.


def read(family, text, **config):
    tokenizer = family.tokenizer()
    codec = ChatCodec(tokenizer, PromptConfig(observation="compact", **config))
    ids = np.array(tokenizer.encode(text, add_special_tokens=False))
    reading = codec.read(ids)
    split = split_reply(reading.text, codec.opened)
    assert reading.thinking_tokens == count_thinking_tokens(ids.tolist(), split, codec._decode)
    return reading


@pytest.mark.parametrize(
    ("name", "text", "shown", "answer", "tokens"),
    [
        ("magistral", "[THINK]ab[/THINK]\\boxed{bet}</s>", "[THINK]ab[/THINK]\\boxed{bet}", "\\boxed{bet}", 4),
        ("seed-oss", "<seed:think>ab</seed:think>\\boxed{bet}<seed:eos>", None, "\\boxed{bet}", 4),
        ("cohere", "ab<|END_THINKING|><|START_RESPONSE|>\\boxed{bet}<|END_RESPONSE|>", "ab<|END_THINKING|>\\boxed{bet}",
         "\\boxed{bet}", 3),
        ("gemma-4", "<|channel>a<channel|>\\boxed{bet}<turn|>", "<|channel>a<channel|>\\boxed{bet}", "\\boxed{bet}", 3),
        ("exaone deep", "ab</thought>\\boxed{bet}[|endofturn|]", "ab</thought>\\boxed{bet}", "\\boxed{bet}", 3),
        ("deepseek-r1 distill", "ab</think>\\boxed{bet}", "ab</think>\\boxed{bet}", "\\boxed{bet}", 3),
        ("gpt-oss", f"{ANALYSIS}ab{FINAL}\\boxed{{bet}}<|return|>", f"{ANALYSIS}ab{FINAL[7:]}\\boxed{{bet}}",
         "\\boxed{bet}", 30),
    ],
)  # fmt: skip
def test_text_keeps_thinking_tokens_and_drops_ends_of_turns(name, text, shown, answer, tokens):
    reading = read(TOKENIZERS[name], text)
    assert reading.text == (text.replace("<seed:eos>", "") if shown is None else shown)
    assert (reading.answer, reading.thinking_tokens, reading.has_thought) == (answer, tokens, True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("magistral", "[THINK]\\boxed{bet}"),
        ("seed-oss", "<seed:think>\\boxed{bet}"),
        ("gpt-oss", f"{ANALYSIS}\\boxed{{bet}}"),
        ("cohere", "\\boxed{bet}"),  # the prompt opened it
        ("minimax", "\\boxed{bet}"),
        ("gemma-4", "<|channel>thought\n\\boxed{bet}"),
    ],
)
def test_an_unfinished_thought_has_no_answer(name, text):
    reading = read(TOKENIZERS[name], text)
    assert (reading.answer, reading.has_thought) == ("", True)
    assert reading.thinking_tokens > 0


# What a player says.


@pytest.mark.parametrize("name", ["magistral", "gpt-oss", "seed-oss", "gemma-4", "qwen"])
def test_an_observation_cannot_open_or_close_a_thought(name):
    codec = ChatCodec(TOKENIZERS[name].tokenizer(), PromptConfig(observation="compact", thinking=False))
    spelled = [*codec.tokenizer.all_special_tokens, *(text for family in FAMILIES for text in family.delimiters)]
    prompt = codec.render("I say " + "".join(f"{text}\\boxed{{deny}}" for text in spelled) + " accept")
    for text in set(spelled):
        assert prompt.count(text) == codec.render("x").count(text)
    assert opened_delimiter(prompt) == opened_delimiter(codec.render("x"))
    sent = without_template_tokens([{"role": "user", "content": "".join(spelled[-30:]) + "<|call|>"}])[0]["content"]
    assert not any(text in sent for family in FAMILIES for text in family.delimiters)


def test_phi_ends_its_turns_with_a_harmony_token():
    phi = TOKENIZERS["phi-3"].tokenizer()
    codec = ChatCodec(phi, PromptConfig(observation="compact"))
    assert codec.read(np.array(phi.encode("\\boxed{bet}<|end|>", add_special_tokens=False))).text == "\\boxed{bet}"


def test_a_prompt_may_open_the_analysis_channel():
    family = TOKENIZERS["gpt-oss"]
    opens = Family(
        template=HARMONY.replace("<|start|>assistant{% endif %}", f"<|start|>assistant{ANALYSIS}{{% endif %}}"),
        eos=family.eos, ends=family.ends, special=family.special, bos=family.bos,
    )  # fmt: skip
    assert ChatCodec(opens.tokenizer(), PromptConfig()).opened == f"<|start|>assistant{ANALYSIS}"
    assert read(opens, f"a \\boxed{{check}}{FINAL}\\boxed{{bet}}").answer == "\\boxed{bet}"
    assert read(opens, "a \\boxed{bet}").answer == ""


# Thoughts that the prompt opens, and tokens that close them.

SOLAR = Family(
    template="{% for m in messages %}<|begin|>{{ m.role }}<|content|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant{% endif %}",
    eos="<|flush|>", ends=("<|flush|>", "<|endoftext|>"), special=("<|begin|>", "<|end|>", "<|think|>", "<|content|>"),
)  # fmt: skip


def opening(mark, *, special=(), added=()):
    """A chat template whose prompts end with `mark`."""
    template = CHATML.replace("<|im_start|>assistant\n{% endif %}", f"<|im_start|>assistant\n{mark}{{% endif %}}")
    assert template != CHATML
    return Family(template=template, eos="<|im_end|>", ends=("<|im_end|>",), special=("<|im_start|>", *special),
                  added=added)  # fmt: skip


def test_a_token_that_closes_thoughts_does_not_end_a_reply():
    tokenizer = SOLAR.tokenizer()
    assert {end.text for end in end_tokens(tokenizer)} == {"<|flush|>", "<|endoftext|>"}
    assert {end.text for end in end_tokens(tokenizer, tokenizer.convert_tokens_to_ids(["<|end|>", "<|flush|>"]))} == {
        "<|flush|>", "<|endoftext|>",
    }  # fmt: skip
    closed = read(SOLAR, "<|think|>\\boxed{check}<|end|><|begin|>assistant<|content|>\\boxed{bet}<|flush|>")
    assert (closed.answer, closed.has_thought) == ("\\boxed{bet}", True)
    assert read(SOLAR, "<|think|>\\boxed{bet}<|flush|>").answer == ""
    assert read(SOLAR, "\\boxed{bet}<|flush|>").answer == "\\boxed{bet}"


def test_s1_thinks_in_a_separate_turn():
    qwen = TOKENIZERS["qwen"]
    assert read(qwen, "<|im_start|>think\n\\boxed{bet}<|im_end|>").answer == ""
    finished = read(qwen, "<|im_start|>think\n\\boxed{check}<|im_start|>answer\n\\boxed{bet}<|im_end|>")
    assert (finished.answer, finished.has_thought) == ("\n\\boxed{bet}", True)
    assert read(qwen, "\\boxed{bet}<|im_start|>user").text == "\\boxed{bet}user"


@pytest.mark.parametrize(
    ("mark", "closing", "special"),
    [
        ("<THINK>", "</THINK>", False),
        ('<think effort="low">\n', "</think>", False),
        ("<unused94>thought\n", "<unused95>", True),
        ("<|think|>", "<|end|>", False),
        ("<|thinking|>", "<|/thinking|>", True),
        ("<analysis>", "</analysis>", False),
        ("<cot>\n", "</cot>", True),
        # No family's.
        ("<my_plan>", "</my_plan>", False),
        ("<pondering>\n", "</pondering>", True),
        ("<|musing|>", "<|/musing|>", True),
        ("<|musing|>", "<|end_of_musing|>", True),
        ("[MUSING]\n", "[/MUSING]", True),
    ],
)
def test_a_tag_at_the_end_of_the_prompt_opens_a_thought(mark, closing, special):
    family = opening(mark, **{"special" if special else "added": (mark.strip(), closing)})
    assert read(family, "\\boxed{bet}<|im_end|>").answer == ""
    finished = read(family, f"\\boxed{{check}}{closing}\\boxed{{bet}}<|im_end|>")
    assert (finished.answer, finished.has_thought) == ("\\boxed{bet}", True)
    assert not read(family, f"{closing}\\boxed{{bet}}<|im_end|>").has_thought


@pytest.mark.parametrize("mark", ["<answer>\n", "<|assistant|>", "<|START_RESPONSE|>", "<|end_header_id|>\n\n", "[BOT]",
                                  "<|musing|>", "<|im_sep|>", "Answer:", "<model>"])  # fmt: skip
def test_tags_of_answers_and_turns_open_no_thought(mark):
    family = opening(mark, special=(mark.strip(),) if mark[0] in "<[" else ())
    assert read(family, "\\boxed{bet}<|im_end|>").answer == "\\boxed{bet}"


def test_an_unknown_tag_at_the_end_of_the_prompt_is_reported():
    report = describe_template(opening("<my_plan>").tokenizer(), PromptConfig())
    assert (report.thinking, report.opens_thought) == ("<my_plan>", True)
    assert any("'</my_plan>'" in line for line in report.warnings)


@pytest.mark.parametrize(
    "spelled", ["<THINK>", "< think >", '<think a="b">', "</Analysis >", "[think]", "<END_THINKING>"]
)
def test_other_spellings_of_tags_are_removed_too(spelled):
    codec = ChatCodec(TOKENIZERS["qwen"].tokenizer(), PromptConfig(observation="compact", thinking=False))
    assert spelled not in codec.render(f"I say {spelled}\\boxed{{deny}}")
    assert spelled not in without_template_tokens([{"role": "user", "content": f"a {spelled} b"}])[0]["content"]
