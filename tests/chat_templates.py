"""Chat templates like those of well-known families, with the families' real tokens."""

from __future__ import annotations

import dataclasses

from tokenizers import AddedToken

from spiral.models.nano.tokenizer import build_tokenizer

EACH, NEXT = "{% for m in messages %}", "{% endfor %}"
ASK = "{% if add_generation_prompt %}"


def turns(user, assistant, system="", reply="", *, beginning=""):
    """A template with one text for each role (`{}` is the message), and the opening of a reply."""
    parts = {"user": user, "assistant": assistant, "system": system or user}
    body = "".join(
        f"{{% {'if' if number == 0 else 'elif'} m.role == '{role}' %}}" + text.replace("{}", "{{ m.content | trim }}")
        for number, (role, text) in enumerate(parts.items())
    )
    return f"{beginning}{EACH}{body}{{% endif %}}{NEXT}" + (f"{ASK}{reply}{{% endif %}}" if reply else "")


CHATML = turns(
    "<|im_start|>user\n{}<|im_end|>\n",
    "<|im_start|>assistant\n{}<|im_end|>\n",
    "<|im_start|>system\n{}<|im_end|>\n",
    "<|im_start|>assistant\n",
)
LLAMA_HEADER = "<|start_header_id|>{role}<|end_header_id|>\n\n"
LLAMA = turns(
    LLAMA_HEADER.replace("{role}", "user") + "{}<|eot_id|>",
    LLAMA_HEADER.replace("{role}", "assistant") + "{}<|eot_id|>",
    LLAMA_HEADER.replace("{role}", "system") + "Today Date: {{ date_string }}\n\n{}<|eot_id|>",
    LLAMA_HEADER.replace("{role}", "assistant"),
    beginning="{{ bos_token }}",
)
GLM = turns("<|user|>\n{}", "<|assistant|>\n{}", "<|system|>\n{}", "<|assistant|>\n", beginning="[gMASK]<sop>")
GLM_THINKS = turns(
    "<|user|>\n{}",
    "<|assistant|>\n<think></think>\n{}",
    "<|system|>\n{}",
    "<|assistant|>{{ '' if enable_thinking else '\n<think></think>' }}",
    beginning="[gMASK]<sop>",
)
HARMONY = (
    "<|start|>system<|message|>Knowledge cutoff: 2024-06\nCurrent date: {{ strftime_now('%Y-%m-%d') }}<|end|>"
    + EACH
    + "{% if m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{% else %}<|start|>{{ 'developer' if m.role == 'system' else m.role }}<|message|>{{ m.content }}<|end|>{% endif %}"
    + NEXT
    + ASK
    + "<|start|>assistant{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + turns(
        "<start_of_turn>user\n{}<end_of_turn>\n",
        "<start_of_turn>model\n{}<end_of_turn>\n",
        reply="<start_of_turn>model\n",
    )
)
GEMMA_4 = turns(
    "<|turn>user\n{}<turn|>\n", "<|turn>model\n{}<turn|>\n", "<|turn>system\n{}<turn|>\n", "<|turn>model\n",
    beginning="{{ bos_token }}",
)  # fmt: skip
PHI_3 = (
    turns("<|user|>\n{}<|end|>\n", "<|assistant|>\n{}<|end|>\n", "<|system|>\n{}<|end|>\n")
    + "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
PHI_4 = turns(
    "<|im_start|>user<|im_sep|>{}<|im_end|>",
    "<|im_start|>assistant<|im_sep|>{}<|im_end|>",
    "<|im_start|>system<|im_sep|>{}<|im_end|>",
    "<|im_start|>assistant<|im_sep|>",
)
MISTRAL = turns(
    "[INST]{}[/INST]", "{}{{ eos_token }}", "[SYSTEM_PROMPT]{}[/SYSTEM_PROMPT]", beginning="{{ bos_token }}"
)
INST_WITHOUT_EOS = turns("[INST]{}[/INST]", " {} ", beginning="{{ bos_token }}")
R1 = turns(
    "<\uff5cUser\uff5c>{}",
    "<\uff5cAssistant\uff5c>{}{{ eos_token }}",
    "{}",
    "<\uff5cAssistant\uff5c><think>\n",
    beginning="{{ bos_token }}",
)
GRANITE = turns(
    "<|start_of_role|>user<|end_of_role|>{}<|end_of_text|>\n",
    "<|start_of_role|>assistant<|end_of_role|>{}<|end_of_text|>\n",
    "<|start_of_role|>system<|end_of_role|>{}<|end_of_text|>\n",
    "<|start_of_role|>assistant<|end_of_role|>",
)
COHERE = turns(
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>{}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{{ '<|START_THINKING|>' if enable_thinking else '' }}",
    beginning="{{ bos_token }}",
)
OLMO = (
    "{{ bos_token }}"
    + EACH
    + "{{ '<|' + m.role + '|>\n' + m.content }}"
    + "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}"
    + NEXT
    + ASK
    + "<|assistant|>\n{% endif %}"
)
FALCON = turns("<|user|>\n{}\n", "<|assistant|>\n{}<|endoftext|>\n", "<|system|>\n{}\n", "<|assistant|>\n")
FALCON_7B = turns("User: {}\n\n", "Assistant: {}\n\n", "{}\n\n", "Assistant:")
SEED = turns(
    "<seed:bos>user\n{}<seed:eos>", "<seed:bos>assistant\n{}<seed:eos>", "<seed:bos>system\n{}<seed:eos>",
    "<seed:bos>assistant\n",
)  # fmt: skip
KIMI = turns(
    "<|im_user|>user<|im_middle|>{}<|im_end|>",
    "<|im_assistant|>assistant<|im_middle|>{}<|im_end|>",
    "<|im_system|>system<|im_middle|>{}<|im_end|>",
    "<|im_assistant|>assistant<|im_middle|>",
)
MINIMAX = turns("]~b]user\n{}[e~[\n", "]~b]ai\n{}[e~[\n", "]~b]system\n{}[e~[\n", "]~b]ai\n<think>\n")
EXAONE = turns("[|user|]{}[|endofturn|]\n", "[|assistant|]{}[|endofturn|]\n", "[|system|]{}[|endofturn|]\n",
               "[|assistant|]<thought>\n")  # fmt: skip
MAGISTRAL = (
    "{{ bos_token }}{% if messages[0].role != 'system' %}[SYSTEM_PROMPT]First think: [THINK]thoughts[/THINK]answer."
    "[/SYSTEM_PROMPT]{% endif %}" + turns("[INST]{}[/INST]", "{}{{ eos_token }}", "[SYSTEM_PROMPT]{}[/SYSTEM_PROMPT]")
)
LAST_ONLY = (
    turns("<|user|>\n{}\n", "<|assistant|>\n{}", "<|system|>\n{}\n")
    + "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A family's template and tokens, with the expected ends of its replies."""

    template: str | None
    eos: str
    ends: tuple[str, ...]
    """The tokens that end a reply, including `eos`."""
    special: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    """Tokens that the tokenizer does not call special."""
    bos: str | None = None
    declared: tuple[str, ...] = ()
    """The ends of sequence in `generation_config.json`."""
    opened: str = ""
    """The delimiter with which a prompt opens a thought when thinking is on."""

    def tokenizer(self):
        """The built-in tokenizer with this family's tokens and template."""
        made = build_tokenizer()
        made.add_tokens([AddedToken(token, normalized=False) for token in self.added])
        made.add_special_tokens({"additional_special_tokens": [*self.special, *self.declared, *self.ends]})
        made.add_special_tokens({"eos_token": self.eos, **({"bos_token": self.bos} if self.bos else {})})
        made.chat_template = self.template
        return made


IM = ("<|im_start|>",)
FAMILIES = {
    "glm-4": Family(
        template=GLM, eos="<|endoftext|>", ends=("<|endoftext|>", "<|user|>", "<|observation|>"),
        special=("[gMASK]", "<sop>", "<|assistant|>", "<|system|>"),
        declared=("<|endoftext|>", "<|user|>", "<|observation|>"),
    ),
    "glm-4 without a generation configuration": Family(
        template=GLM, eos="<|endoftext|>", ends=("<|endoftext|>", "<|user|>"),
        special=("[gMASK]", "<sop>", "<|assistant|>", "<|system|>", "<|observation|>"),
    ),
    "glm-4.5": Family(
        template=GLM_THINKS, eos="<|endoftext|>", ends=("<|endoftext|>", "<|user|>"),
        special=("[gMASK]", "<sop>", "<|assistant|>", "<|system|>"),
    ),
    "llama-3": Family(
        template=LLAMA, eos="<|eot_id|>", ends=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        special=("<|start_header_id|>", "<|end_header_id|>"), bos="<|begin_of_text|>",
        declared=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    "qwen": Family(
        template=CHATML, eos="<|im_end|>", ends=("<|im_end|>", "<|endoftext|>"), special=IM,
        declared=("<|im_end|>", "<|endoftext|>"),
    ),
    "qwen base": Family(
        template=CHATML, eos="<|endoftext|>", ends=("<|im_end|>", "<|endoftext|>"), special=IM,
    ),
    "yi": Family(template=CHATML, eos="<|im_end|>", ends=("<|im_end|>", "<|endoftext|>"), special=IM),
    "internlm": Family(template=CHATML, eos="</s>", ends=("</s>", "<|im_end|>"), special=IM, bos="<s>",
                       declared=("</s>", "<|im_end|>")),
    "smollm-3": Family(template=CHATML, eos="<|im_end|>", ends=("<|im_end|>",), special=IM, bos="<|im_start|>"),
    "gemma-3": Family(
        template=GEMMA, eos="<eos>", ends=("<eos>", "<end_of_turn>"), special=("<start_of_turn>",), bos="<bos>",
        declared=("<eos>", "<end_of_turn>"),
    ),
    "gemma-4": Family(
        template=GEMMA_4, eos="<eos>", ends=("<eos>", "<turn|>"), bos="<bos>",
        special=("<|turn>", "<|channel>", "<channel|>"),
    ),
    "phi-3": Family(
        template=PHI_3, eos="<|endoftext|>", ends=("<|endoftext|>", "<|end|>", "<|assistant|>"),
        special=("<|user|>", "<|system|>"), bos="<s>", declared=("<|end|>", "<|assistant|>", "<|endoftext|>"),
    ),
    "phi-4": Family(
        template=PHI_4, eos="<|im_end|>", ends=("<|im_end|>", "<|endoftext|>"), special=("<|im_sep|>", *IM),
        bos="<|endoftext|>",
    ),
    "mistral": Family(
        template=MISTRAL, eos="</s>", ends=("</s>",), bos="<s>",
        special=("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    ),
    "no end after an answer, [INST] next": Family(
        template=INST_WITHOUT_EOS, eos="</s>", ends=("</s>", "[INST]"), bos="<s>", special=("[/INST]",)
    ),
    "deepseek-r1 distill": Family(
        template=R1, eos="<\uff5cend\u2581of\u2581sentence\uff5c>", ends=("<\uff5cend\u2581of\u2581sentence\uff5c>",),
        bos="<\uff5cbegin\u2581of\u2581sentence\uff5c>", added=("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"),
        opened="<think>",
    ),
    "gpt-oss": Family(
        template=HARMONY, eos="<|return|>", ends=("<|return|>", "<|call|>", "<|endoftext|>"), bos="<|startoftext|>",
        special=("<|start|>", "<|message|>", "<|channel|>", "<|constrain|>"),
        declared=("<|return|>", "<|endoftext|>", "<|call|>"),
    ),
    "granite": Family(
        template=GRANITE, eos="<|end_of_text|>", ends=("<|end_of_text|>",), bos="<|end_of_text|>",
        special=("<|start_of_role|>", "<|end_of_role|>"),
    ),
    "cohere": Family(
        template=COHERE, eos="<|END_OF_TURN_TOKEN|>", ends=("<|END_OF_TURN_TOKEN|>", "<|END_RESPONSE|>"),
        special=("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>",
                 "<|START_RESPONSE|>", "<|START_THINKING|>", "<|END_THINKING|>"),
        bos="<BOS_TOKEN>", opened="<|START_THINKING|>",
    ),
    "olmo-2": Family(template=OLMO, eos="<|endoftext|>", ends=("<|endoftext|>",), bos="<|endoftext|>"),
    "falcon-3": Family(template=FALCON, eos="<|endoftext|>", ends=("<|endoftext|>",),
                       special=("<|user|>", "<|assistant|>", "<|system|>")),
    "falcon-7b": Family(template=FALCON_7B, eos="<|endoftext|>", ends=("<|endoftext|>",)),
    "seed-oss": Family(
        template=SEED, eos="<seed:eos>", ends=("<seed:eos>",), bos="<seed:bos>",
        special=("<seed:think>", "</seed:think>"),
    ),
    "kimi": Family(
        template=KIMI, eos="<|im_end|>", ends=("<|im_end|>",), bos="[BOS]",
        special=("<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"),
    ),
    "minimax": Family(template=MINIMAX, eos="[e~[", ends=("[e~[",), special=("]~b]",), opened="<think>"),
    "exaone deep": Family(
        template=EXAONE, eos="[|endofturn|]", ends=("[|endofturn|]",),
        special=("[|user|]", "[|assistant|]", "[|system|]"), added=("<thought>", "</thought>"), opened="<thought>",
    ),
    "magistral": Family(
        template=MAGISTRAL, eos="</s>", ends=("</s>",), bos="<s>",
        special=("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]"),
    ),
    "an end only after the last answer": Family(
        template=LAST_ONLY, eos="</s>", ends=("</s>", "<|user|>"), special=("<|assistant|>", "<|system|>")
    ),
    "no template, several ends": Family(
        template=None, eos="</s>", ends=("</s>", "<|endoftext|>", "<eod>"), declared=("</s>", "<eod>")
    ),
}  # fmt: skip


# Families with rules of their own for the earlier turns of a conversation

ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/...') }}{% endif %}{% endfor %}"
)
QWEN_3 = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
    + EACH
    + "{% if m.role == 'assistant' %}{% set text = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% if loop.index0 > ns.last %}{% set text = '<think>\n' + m.content.split('</think>')[0].split('<think>')[-1] "
    "+ '\n</think>\n\n' + text %}{% endif %}{{ '<|im_start|>assistant\n' + text + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
    + NEXT
    + ASK
    + "{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
HARMONY_STRICT = (
    EACH
    + "{% if m.role == 'assistant' and '<|channel|>' in m.content %}{{ raise_exception('channel tags in content') }}"
    "{% endif %}" + NEXT + HARMONY
)  # fmt: skip
CHATS = {
    "gemma": dataclasses.replace(FAMILIES["gemma-3"], template=ALTERNATE + GEMMA),
    "mistral": dataclasses.replace(
        FAMILIES["mistral"],
        template=ALTERNATE + turns("[INST]{}[/INST]", "{}{{ eos_token }}", beginning="{{ bos_token }}"),
    ),
    "qwen-3": dataclasses.replace(FAMILIES["qwen"], template=QWEN_3),
    "gpt-oss": dataclasses.replace(FAMILIES["gpt-oss"], template=HARMONY_STRICT),
    "magistral": FAMILIES["magistral"],
    "reka": dataclasses.replace(
        FAMILIES["falcon-7b"],
        template=turns("human: {} <sep> ", "assistant: {} <sep> ", reply="assistant: <reasoning>\n"),
        ends=("<|endoftext|>", "<sep>"), added=("<sep>", "<reasoning>", "</reasoning>"),
    ),
    "deepseek-r1": FAMILIES["deepseek-r1 distill"],
    "glm-4.5": FAMILIES["glm-4.5"],
    "a base model": FAMILIES["no template, several ends"],
}  # fmt: skip
