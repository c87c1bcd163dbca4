"""Pathological replies, made from a seed: long, deep, huge, odd, and mixtures of these."""

from __future__ import annotations

import random

GOLDS = (
    "5", "-3", r"\frac{1}{2}", "0.5", "4.5e33", "1,-2", "(1,2)", r"\{1,2\}", "x^2+1", r"\text{even}", "Monday",
    r"\emptyset", r"(-\infty, 3]", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "y = 2x + 3", r"50\%", r"\$18",
    "5 cm", "52_8", "12:30", r"\int_0^1 x\,dx", r"\sqrt{2}", r"2\pi", r"\pm 3", r"x > 2", r"\binom{8}{3}", "1,234",
    r"n! + 1", r"\lfloor x \rfloor",
)  # fmt: skip
CHOICES = ("a nail", "a screw", r"\frac{1}{2}", "x - 1")
ATOMS = (
    "1", "9", "0", "12", "3.14", "-", "+", "*", "/", "^", "_", "=", "<", ">", "!", "%", "$", "&", "#", "~", ",",
    ";", ":", ".", "'", '"', "`", "|", "(", ")", "[", "]", "{", "}", "\\", r"\\", r"\{", r"\}", r"\(", r"\)", r"\[",
    r"\]", r"\,", r"\!", r"\$", r"\%", "x", "y", "e", "i", "C", "f(x)", " ", "\n", "\t", "\x00", "\ud800", "\udfff",
    "\u202e", "\u200b", "\u0665", "\uff15", "\u00b2", "\u2212", "\u221e", "\u221a", "\u03c0", "\u00b0",
    "\U0001d7d3", "\u0301", "\ufdfa", "and ", "or ", " per ", "cm ", "apples ", "dollars ", "squared ", "million ",
    "of ", "the ", "answer is ", "1e9", "1e999999", "1,000", "1/", r"\frac", r"\sqrt", r"\sin ", r"\log_", r"\pm ",
    r"\mp ", r"\cup ", r"\in ", r"\le ", r"\approx ", r"\int ", r"\sum_", r"\prod ", r"\lim_{x \to 0} ", r"\infty ",
    r"\pi ", r"\text", r"\textbf", r"\mathrm", r"\color", r"\tag", r"\over ", r"\choose ", r"\binom", r"\boxed",
    r"\fbox", r"\left", r"\right", r"\begin{pmatrix}", r"\end{pmatrix}", r"\begin{cases}", r"\end{cases}",
    r"\begin{array}{c}", r"\end{array}", r"\lfloor ", r"\rfloor ", r"\overline", r"\circ ", r"\degree ",
    r"\langle ", r"\rangle ", r"\emptyset ", r"\operatorname", "<think>", "</think>", "<answer>", "</answer>",
    "[THINK]", "<|channel|>", "####", "**Final Answer**\n", r"\cdot ", r"\ldots ",
)  # fmt: skip
WRAPPERS = (
    ("(", ",2)"), ("{", "}"), ("[", ",1]"), (r"\{", r",1\}"), (r"\text{", "}"), (r"\frac{1}{", "}"),
    (r"\frac{", "}{7}"), (r"\sqrt{", "}"), ("|", "|"), (r"\left(", r"\right)"), ("2^{", "}"), ("(", ")!"),
    (r"\lfloor ", r"\rfloor "), (r"\boxed{", "}"), (r"\textbf{", "}"), ("x=(", ",1)"), (r"\sin(", ")"),
    (r"{1 \over ", "}"), ("(", ")^{99}"), (r"\begin{pmatrix}", r" & 1\end{pmatrix}"), (r"f(", ")"),
    (r"\color{red}{", "}"), ("9^", ""), ("-", ""), (r"\int ", " dx"), (r"\sum_{n=1}^{", "} n"),
    ("<think>", "</think>"), (r"(\pm ", ",1)"),
)  # fmt: skip
ITEMS = (
    r"\pm 1", "x", "2^{999}", "(1,2)", "x=1", r"\{1,2\}", "x!", "1/3", "y>2", r"(\pm 1,\pm 2)", r"\sqrt 2", "3 cm",
)  # fmt: skip


def hostile_reply(rng: random.Random) -> str:
    """One reply; most of them hold a box."""
    content = rng.choice((_repeated, _nested, _mixed, _huge, _listed, _sentence, _mutated))(rng)
    return rng.choices((r"So \boxed{%s}", r"\boxed %s", r"The answer is %s.", "%s"), (20, 1, 2, 1))[0].replace(
        "%s", content
    )


def _size(rng: random.Random) -> int:
    return int(10 ** rng.uniform(0, 3.3))


def _repeated(rng: random.Random) -> str:
    piece = "".join(rng.choices(ATOMS, k=rng.randint(1, 4)))
    return "".join(rng.choices(ATOMS, k=2)) + piece * max(1, _size(rng) // len(piece)) + rng.choice(ATOMS)


def _nested(rng: random.Random) -> str:
    pairs = rng.choices(WRAPPERS, k=rng.randint(1, 3))
    depth = max(1, _size(rng) // sum(len(one) + len(other) for one, other in pairs))
    opening = "".join(one for one, _ in pairs)
    return opening * depth + rng.choice(("1", "x", "5")) + "".join(other for _, other in reversed(pairs)) * depth


def _mixed(rng: random.Random) -> str:
    return "".join(rng.choices(ATOMS, k=min(500, _size(rng))))


def _huge(rng: random.Random) -> str:
    number = str(rng.choice((9, 99, 10**9, 1500, 0.1, -2))) * rng.choice((1, 1, 1, 200))
    links = ("^", "^", "^{", "!^", "!", "**", r"\cdot ", "^-", "e", "/", r"\%^", "^x^", "!+", "*x!*")
    text = number
    for _ in range(rng.randint(1, 60)):
        text += rng.choice(links) + str(rng.choice((9, 99, 1499, 10**12, "x", 0.5, 400)))
    return text + "}" * text.count("{")


def _listed(rng: random.Random) -> str:
    items = rng.choices(
        (
            r"\pm 1",
            "x",
            "2^{999}",
            "(1,2)",
            "x=1",
            r"\{1,2\}",
            "x!",
            "1/3",
            "y>2",
            r"(\pm 1,\pm 2)",
            r"\sqrt 2",
            "3 cm",
        ),
        k=4,
    )
    between = rng.choice((",", " or ", r" \cup ", "=", "<", " & ", r" \\ ", r" \text{ and } ", "+", ";", r"\wedge "))
    text = between.join(items * max(1, _size(rng) // 40))
    return rng.choice(("%s", "(%s)", r"\{%s\}", r"\begin{pmatrix}%s\end{pmatrix}", r"\lfloor %s\rfloor")).replace(
        "%s", text
    )


def _sentence(rng: random.Random) -> str:
    words = (
        "the",
        "smallest",
        "number",
        "of",
        "squares",
        "is",
        "equal",
        "to",
        "5",
        "per",
        "cm",
        "apples",
        "at",
        "least",
        "million",
        "and",
    )
    return " ".join(rng.choices(words, k=_size(rng) // 4 + 1)) + rng.choice(("", "!", " 3", "^2", r" \text{cm}"))


def _mutated(rng: random.Random) -> str:
    text = rng.choice(GOLDS)
    for _ in range(rng.randint(1, 6)):
        offset = rng.randint(0, len(text))
        piece = rng.choice((rng.choice(ATOMS), text[offset : offset + 5] * rng.randint(1, 40)))
        text = text[:offset] + piece + text[offset + rng.randint(0, 3) :]
    return text
