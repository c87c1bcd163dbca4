r"""A quantity apart from its unit: "5 \text{ cm}^2", "$18", "50\%", "90^\circ", "3 million people", "52_8".

Units of the words known here are compared where both answers have them: 5 cm is not 5 km, and nothing is converted.
Other words after a number are taken for the things counted ("18 eggs"), unless they change what the number says
("5 or", "3 more"). A single letter after a number is a variable, except inside `\text{}` or `\mathrm{}`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from fractions import Fraction

from spiral.evaluation.benchmarks.normalise import MONEY

_SYNONYMS = """
dollar dollars usd bucks ¤ / cent cents / euro euros eur € / pound pounds lb lbs / penny pennies pence
meter meters metre metres m / centimeter centimeters centimetre centimetres cm / millimeter millimeters mm
kilometer kilometers kilometre kilometres km / nanometer nanometers nm / mile miles mi / yard yards yd
inch inches in / foot feet ft / second seconds sec secs s / minute minutes min mins / hour hours hr hrs h / day days
week weeks / month months / year years yr yrs / millisecond milliseconds ms / gram grams g / kilogram kilograms kg kgs
milligram milligrams mg / ounce ounces oz / ton tons / liter liters litre litres L l / milliliter milliliters ml mL
gallon gallons gal / degree degrees deg / radian radians rad / celsius / fahrenheit / kelvin kelvins K
joule joules J / kilojoule kilojoules kJ / electronvolt eV / kiloelectronvolt keV / megaelectronvolt MeV / watt watts W
kilowatt kilowatts kW / volt volts V / ampere amperes amp amps A / ohm ohms / newton newtons N / pascal pascals Pa
kilopascal kPa / atm atmosphere atmospheres / mole moles mol / hertz Hz / kilohertz kHz / megahertz MHz / erg ergs
unit units / parsec parsecs pc / arcsecond arcseconds arcsec / people person persons
"""
_UNITS = {
    word: words.split()[0]
    for words in _SYNONYMS.replace("\n", " / ").split(" / ")
    if words.strip()
    for word in words.split()
}
_SPELT = {"mph": "mile per hour", "kph": "km per hour", "kmh": "km per hour", "sq": "square"}
_POWERS = {"square": 2, "squared": 2, "cubic": 3, "cubed": 3}
_FACTORS = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
}  # fmt: skip
_CHANGING = frozenset(
    re.findall(
        r"\w+",
        "and or not no times to plus minus over than more less fewer at if for where when is are mod modulo except"
        " least most about between but because since so would half quarter third pi sqrt square root negative base"
        " mixed solutions answer choice option error wrong incorrect",
    )
)
"""Words after which a number is no longer the answer by itself."""
_WORD = (
    r"(?:\\text\{[^{}]*\}|(?<![\\A-Za-z_^])[A-Za-z]{1,3}/[A-Za-z]{1,4}(?![A-Za-z_(])"
    r"|(?<![\\A-Za-z_^])[A-Za-z]{2,}(?![A-Za-z_(]))"
)
_TAIL = re.compile(rf"\s*+((?:(?:/|per\b|\\cdot|-)?\s*+{_WORD}\.?(?:\s*+\^\s*+(?:\{{-?\d\}}|-?\d))?\s*+)++)$")
_UNIT_TOKEN = re.compile(r"[A-Za-z€¤]+|\^\s*\{?(-?\d)\}?|/")
_BASE = re.compile(
    r"(-?\d[\dA-F]*)\s*(?:_\s*\{?\s*(?:\\text\{)?\s*(\d+|[a-z]+)\s*\}*"
    r"|\\text\{[\s(]*base[\s-]*(\w+)[)\s]*\}|base (\w+))"
)
_SPELT_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_PERCENT = re.compile(r"\s*(?:%|\\text\{\s*(?:%|percent|per cent|percentage)\s*\}|percent|per cent)\s*$")
_FRACTION_OF_UNITS = re.compile(r"\\frac\s*\{\s*(\\text\{[^{}]*\})\s*\}\s*\{\s*(\\text\{[^{}]*\})\s*\}\s*$")
_NUMERIC = re.compile(r"[-+\d.,\s/*()^{}]|\\(?:frac|sqrt|pi|times|cdot|infty|pm)(?![A-Za-z])|(?<=\d)e(?=[-+\d])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantity:
    """An expression, and what follows it."""

    value: str
    unit: frozenset[tuple[str, int]] = frozenset()
    """Known units and their powers."""
    percent: bool = False
    factor: Fraction = Fraction(1)
    """Of a word like "million"."""
    base: int | None = None


@functools.lru_cache(maxsize=8192)
def quantity(text: str) -> Quantity:
    """Takes a cleaned answer apart; one without a unit is all value."""
    based = _BASE.fullmatch(text)
    if based is not None:
        return _in_base(text, based)
    if _PERCENT.search(text):
        return Quantity(value=_PERCENT.sub("", text), percent=True)
    money = MONEY in text
    if money:
        text = re.sub(rf"(?:\\text\{{\s*US\s*\}}|US)?\s*{MONEY}", "", text, count=1).strip()
    elif text.startswith(("€", "£", r"\pounds", r"\text{€}")):
        text = re.sub(r"^(?:€|£|\\pounds|\\text\{€\})\s*", "", text)
    text = _FRACTION_OF_UNITS.sub(r"\1/\2", text)
    tail = _TAIL.search(text)
    unit = _unit(tail[1]) if tail is not None and tail.start() else None
    if tail is None or unit is None or not _may_be_counted(text[: tail.start()], tail[0]):
        return Quantity(value=text, unit=frozenset({("dollar", 1)} if money else ()))
    powers, factor = unit
    powers |= {("dollar", 1)} if money else set()
    return Quantity(value=text[: tail.start()].strip(), unit=frozenset(powers), factor=Fraction(factor))


def contradict(first: Quantity, second: Quantity) -> bool:
    """Whether the units of two quantities cannot both be right."""
    one, other = dict(first.unit), dict(second.unit)
    if any(one[name] != other[name] for name in one.keys() & other.keys()):
        return True
    return bool(one.keys() - other.keys()) and bool(other.keys() - one.keys())


def _in_base(text: str, match: re.Match[str]) -> Quantity:
    base = match[2] or match[3] or match[4]
    number = int(base) if base.isdigit() else _SPELT_BASES.get(base)
    return Quantity(value=text) if number is None else Quantity(value=match[1].lstrip("0") or "0", base=number)


def _may_be_counted(value: str, tail: str) -> bool:
    """Bare words of unknown kind are units of plain numbers only, and after a space: `2ab` is a product."""
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]+", re.sub(r"\\text\{[^{}]*\}", " ", tail))
    unknown = [word for word in words if word not in _UNITS and word.lower() not in _SPELT]
    if not unknown:
        return True
    return not _NUMERIC.sub("", value) and tail[0].isspace() and all(len(word) > 2 for word in unknown)


def _unit(tail: str) -> tuple[set[tuple[str, int]], int] | None:
    """The known units of a phrase and its factor, or None when its words are not those of a unit."""
    words = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", tail).replace(r"\cdot", " ")
    words = re.sub(r"[A-Za-z]+", lambda match: _SPELT.get(match.group().lower(), match.group()), words)
    powers: dict[str, int] = {}
    factor, sign, power, last = 1, 1, 1, ""
    for match in _UNIT_TOKEN.finditer(words):
        word = match.group()
        if match[1]:
            if last:
                powers[last] = int(match[1]) * (1 if powers[last] > 0 else -1)
            continue
        lowered = word.lower()
        if lowered in _CHANGING and not (lowered == "square" and last == ""):
            return None
        name = _UNITS.get(word) or (_UNITS.get(lowered) if len(word) > 2 else None)
        if word == "/" or lowered == "per":
            sign = -1
        elif lowered in _FACTORS:
            factor *= _FACTORS[lowered]
        elif lowered in _POWERS:
            power = _POWERS[lowered]
            if last and lowered.endswith("d"):
                powers[last], power = power, 1
        elif name is not None and name != "unit":
            powers[name], power, last = sign * power, 1, name
        else:
            last = ""
    if "degree" in powers and re.search(r"\b(?:C|F|celsius|Celsius|fahrenheit|Fahrenheit)\b", words):
        powers = {"celsius" if re.search(r"\b[Cc]", words) else "fahrenheit": 1}
    return set(powers.items()), factor
