r"""Separates a value from its unit: "5 \text{ cm}^2", "$18", "50\%", "90^\circ", "3 million people", "52_8".

Known units are compared if both answers have them: 5 cm is not 5 km, and nothing is converted. Other words after a
number are counted objects ("18 eggs", "3 red pens a day") only if one of them is a plural, or if the expected answer
contains them too. A word that changes the number makes it another answer: "5 squared", "5 tenths", "5 below zero", "5
or more", "5 per million". A single letter after a number is a variable, except inside `\text{}`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from fractions import Fraction

from spiral.evaluation.reasoning.grading.normalise import MONEY

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
tesla teslas / coulomb coulombs / farad farads / henry henries / weber webers / lumen lumens / lux
becquerel becquerels / candela candelas / bar bars / torr / psi / horsepower / acre acres / hectare hectares
knot knots / decibel decibels dB / calorie calories / kilocalorie kilocalories kcal / bit bits / byte bytes
kilobyte kilobytes / megabyte megabytes / gigabyte gigabytes / angstrom angstroms
micrometer micrometers micron microns / microsecond microseconds / rpm / nanosecond nanoseconds ns / decade decades
century centuries / quart quarts / pint pints / cup cups / tablespoon tablespoons tbsp / teaspoon teaspoons tsp
bushel bushels / rupee rupees / yen / yuan / peso pesos / franc francs / kilopascals / milliampere milliamperes mA
millivolt millivolts mV / megawatt megawatts MW / gigawatt gigawatts GW / terahertz THz / gigahertz GHz
steradian steradians / lightyear lightyears
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
    "tens": 10, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "dozen": 12, "hundreds": 10**2, "thousands": 10**3, "millions": 10**6, "billions": 10**9, "trillions": 10**12,
    "dozens": 12,
}  # fmt: skip
_CHANGING = frozenset(
    re.findall(
        r"\w+",
        "and or not no nor to plus minus times over than more less fewer at if for where when while is are was were mod"
        " modulo except least most about between but because since so would half halves halved quarter quarters third"
        " thirds pi sqrt square root negative base mixed solutions answer choice option error wrong incorrect"
        " below above under beyond past short shy off point factorial choose inclusive exclusive equals divides exceeds"
        " makes gives means yields has doubled tripled doubles triples score scores gross basis mille permille permil"
        " exponent raised power powers cubed percentile percentiles"
        " zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
        " seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety",
    )
)
"""Words that change the number before them."""
_PART = re.compile(
    r"(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
    r"|twentie|thirtie|fortie|fiftie|sixtie|seventie|eightie|ninetie|hundred|thousand|million|billion|trillion)ths?"
)
"""Fractions in words, as in "5 tenths"."""
_PLURALS = frozenset(
    re.findall(r"\w+", "people men women children feet teeth geese mice fish sheep deer cattle dice oxen data criteria")
)
_HARMLESS = frozenset(
    re.findall(
        r"\w+",
        "total altogether exactly only each left remaining overall apiece them these those of the an th st nd rd",
    )
)
"""Words after a number that do not change it."""
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
    """A value with its unit."""

    value: str
    unit: frozenset[tuple[str, int]] = frozenset()
    """Known units and their powers."""
    percent: bool = False
    factor: Fraction = Fraction(1)
    """The factor of a word such as "million"."""
    base: int | None = None


CURRENCIES = {
    **{"€": "euro", "£": "pound", r"\pounds": "pound", "¥": "yen", "₹": "rupee"},
    **{"USD": "dollar", "EUR": "euro", "GBP": "pound", "JPY": "yen", "CNY": "yuan", "INR": "rupee", "Rs": "rupee"},
}
"""Signs and codes before an amount. A dollar sign may also stand elsewhere."""
_CURRENCY_SIGN = re.compile(
    r"\s*(?:\\text\{\s*)?(?:(€|£|\\pounds|¥|₹)\s*\}?\s*|(USD|EUR|GBP|JPY|CNY|INR|Rs)\.?\s*\}?\s*(?=[-+]?\.?\d))"
)


@functools.lru_cache(maxsize=8192)
def quantity(text: str, counted: frozenset[str] | None = None) -> Quantity:
    """Separates the value and the unit of a cleaned answer.

    `counted` holds the words of the expected answer, which may be counted objects; None, for the expected answer
    itself, allows any word.
    """
    based = _BASE.fullmatch(text)
    if based is not None:
        return _in_base(text, based)
    if _PERCENT.search(text):
        return Quantity(value=_PERCENT.sub("", text), percent=True)
    currency = "dollar" if MONEY in text else None
    sign = _CURRENCY_SIGN.match(text)
    if currency:
        text = re.sub(rf"(?:\\text\{{\s*US\s*\}}|US)?\s*{MONEY}", "", text, count=1).strip()
    elif sign is not None:
        currency, text = CURRENCIES[sign[1] or sign[2]], text[sign.end() :]
    text = _FRACTION_OF_UNITS.sub(r"\1/\2", text)
    tail = _TAIL.search(text)
    unit = _unit(tail[1]) if tail is not None and tail.start() else None
    if tail is None or unit is None or not _may_be_counted(text[: tail.start()], tail[0], counted):
        return Quantity(value=text, unit=frozenset({(currency, 1)} if currency else ()))
    powers, factor = unit
    powers |= {(currency, 1)} if currency else set()
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


def words_of(text: str) -> frozenset[str]:
    """The lower-case words of an answer."""
    return frozenset(word.lower() for word in re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", text.replace(r"\text{", "{ ")))


def _may_be_counted(value: str, tail: str, counted: frozenset[str] | None) -> bool:
    r"""Whether the unknown words in a tail are counted objects.

    Words outside `\text{}` can only follow a plain number and a space: `2ab` is a product.
    """
    bare = _unknown(re.sub(r"\\text\{[^{}]*\}", " ", tail))
    is_product = any(len(word) < 3 and word not in _HARMLESS for word in bare)
    if bare and (_NUMERIC.sub("", value) or not tail[0].isspace() or is_product):
        return False
    if counted is None:
        return True
    words = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", tail)
    unknown = [word for word in _unknown(words) if len(word) > 2 and word.lower() not in _HARMLESS]
    is_one = value.strip() == "1"
    has_unit = any(word in _UNITS for word in re.findall("[A-Za-z]{2,}", words))
    return is_one or has_unit or all(word.lower() in counted for word in unknown) or any(map(_is_plural, unknown))


def _unknown(words: str) -> list[str]:
    """The words that are not units."""
    found = re.findall(r"(?<![\\A-Za-z])[A-Za-z]+", words)
    return [word for word in found if not _unit_name(word) and word.lower() not in _SPELT.keys() | _FACTORS.keys()]


def _unit_name(word: str) -> str | None:
    return _UNITS.get(word) or (_UNITS.get(word.lower()) if len(word) > 2 else None)


def _is_plural(word: str) -> bool:
    word = word.lower()
    return word in _PLURALS or (word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us", "is")))


def _changes(word: str, *, after_per: bool) -> bool:
    """Whether a word changes the number before it; "million" does after "per"."""
    return word in _CHANGING or word in _POWERS or _PART.fullmatch(word) is not None or (after_per and word in _FACTORS)


def _unit(tail: str) -> tuple[set[tuple[str, int]], int] | None:
    """The known units of a phrase and its factor, or None if a word changes the number."""
    words = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", tail).replace(r"\cdot", " ")
    words = re.sub(r"[A-Za-z]+", lambda match: _SPELT.get(match.group().lower(), match.group()), words)
    powers: dict[str, int] = {}
    factor, sign, power, last = 1, 1, 1, ""
    for match in _UNIT_TOKEN.finditer(words):
        word = match.group()
        if match[1]:
            if last in powers:
                powers[last] = int(match[1]) * (1 if powers[last] > 0 else -1)
            continue
        lowered = word.lower()
        is_power = lowered in _POWERS and (last != "") == lowered.endswith("d")
        if not is_power and _changes(lowered, after_per=sign < 0):
            return None
        name = _unit_name(word)
        if word == "/" or lowered == "per":
            sign = -1
        elif lowered in _FACTORS:
            factor *= _FACTORS[lowered]
        elif is_power and last:
            powers[last] = _POWERS[lowered] * (1 if powers.get(last, 1) > 0 else -1)
        elif is_power:
            power = _POWERS[lowered]
        else:
            last = name or ""
            if name is not None:
                powers[name] = sign * power
            power = 1
    if power != 1:  # "5 square"
        return None
    powers.pop("unit", None)
    if "degree" in powers and re.search(r"\b(?:C|F|celsius|Celsius|fahrenheit|Fahrenheit)\b", words):
        powers = {"celsius" if re.search(r"\b[Cc]", words) else "fahrenheit": 1}
    return set(powers.items()), factor
