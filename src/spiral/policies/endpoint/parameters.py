"""What a server is asked beside the messages: how to sample, how much to write, with which seed.

Servers differ in what they take. What an endpoint's table says (`omit`, `rename`) holds from the start. The rest is
found out from the first refusal that names a parameter: it is sent under its other name, or left out, from then on.
Every name is given up at most once, so that a server that refuses everything is not asked for ever, and every change
is reported in one line and is part of the usage. A value that is out of range is not a parameter that is not taken: it
is an error, for the number asked for would be another one.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping
from typing import Any

from spiral.core.policy import SamplingConfig
from spiral.policies.endpoint.config import LENGTH, PARAMETERS, EndpointConfig
from spiral.policies.endpoint.refusal import Refusal

MAX_SEED = 2**31
"""Servers differ in how large a seed may be; this much all take."""
OTHER_NAMES = {LENGTH: ("max_tokens", "max_completion_tokens")}
"""Names that a parameter goes by, the older one first."""
MAX_NAMES = 3
"""Names tried for one parameter, those that a server proposes included."""
NEUTRAL = {"temperature": 1.0, "top_p": 1.0}
"""Values that change nothing, so that leaving them out does not either."""
NOT_TAKEN = re.compile(
    r"unsupported|n[o']t support|\bno support|unrecogni[sz]ed|\bunknown\b|unexpected|extra.?inputs|extra.?parameters?"
    r"|extra_forbidden|extraneous|additional propert|not (?:permitted|allowed|accepted|available|recogni[sz]ed)"
    r"|not a valid (?:field|parameter|argument)|invalid (?:field|parameter|argument) name|cannot find field|deprecated"
    r"|(?:doe?s?|can)(?: no|n[o']?|')t (?:accept|take|allow|be (?:used|set|specified|combined))|cannot both"
    r"|not (?:yet |currently )?implemented|unimplemented|not one of"
    r"|only the default|only one of|mutually exclusive|no longer",
    re.IGNORECASE,
)
ONLY_DEFAULT = re.compile(
    r"only the default|only 1(?:\.0)? is (?:allowed|supported)|may only be (?:set to )?1|fixed (?:at|to) 1"
    r"|only (?:supports? )?\w+ ?= ?1(?:\.0)?\b(?!\.\d)|must be 1(?:\.0)?\b(?!\.\d)"
    r"|must be (?:set to|equal to|exactly|the default)",
    re.IGNORECASE,
)
OUT_OF_RANGE = re.compile(
    r"too (?:large|small|high|low|big|many)|at (?:most|least)|must be|should be|less than|greater than|\brange\b"
    r"|between|maximum|minimum|exceed|context (?:length|window)",
    re.IGNORECASE,
)
ONE_OF_TWO = re.compile(r"both|together|same time|simultaneous|only one|mutually|combin|either", re.IGNORECASE)
IN_PLACE = re.compile(
    r"(?:\buse|did you mean|renamed to|replaced by|in favou?r of|try)[:\s]+[`'\"]?([a-z][a-z_]{1,40}[a-z])\b",
    re.IGNORECASE,
)
INDENTED = re.compile(r"\n[ \t]+")
"""Pydantic's errors in plain text go on so."""
CLAUSE = re.compile(
    r"(?<=[.;!?])\s+|\n|\}\s*,?|(?:\bplease|\bPlease)?\s*\b[Uu]se\s|\b[Ss]upported (?:ones|parameters)\b"
)


logger = logging.getLogger(__name__)


class NotTakenError(Exception):
    """A server does not take what was asked for and cannot be left out."""


@dataclasses.dataclass
class _Name:
    """What a parameter is called by now; None where it is left out."""

    current: str | None
    tried: list[str]


class Parameters:
    """Which parameters an endpoint is sent and under which names, as far as that is known."""

    def __init__(self, config: EndpointConfig, required: frozenset[str] = frozenset()) -> None:
        """`required` parameters were set by the user on the command line; they are never left out."""
        self._config = config
        self._required = required
        self._names: dict[str, _Name] = {}
        for parameter in PARAMETERS:
            name = config.rename.get(parameter, parameter)
            self._names[parameter] = _Name(None if parameter in config.omit else name, [name])

    def values(self, sampling: SamplingConfig, seed: int) -> dict[str, Any]:
        """The parameters of one request, by the names that the server knows."""
        wanted = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            LENGTH: sampling.max_new_tokens,
            "seed": seed % MAX_SEED,
        }
        named = {name.current: wanted[parameter] for parameter, name in self._names.items() if name.current}
        return {**named, **self._config.extra}

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the server is not sent."""
        return tuple(parameter for parameter, name in self._names.items() if name.current is None)

    @property
    def renamed(self) -> dict[str, str]:
        """What the server is sent under another name."""
        called = {parameter: name.current for parameter, name in self._names.items()}
        return {parameter: name for parameter, name in called.items() if name is not None and name != parameter}

    def learn(self, sent: Mapping[str, Any], refusal: Refusal) -> bool:
        """Whether a request that was `sent` and refused is worth sending again as `values` now has it.

        Raises `NotTakenError` when the server refuses what cannot be left out.
        """
        refused = self._refused(sent, refusal)
        for parameter in refused:
            name = self._names[parameter]
            if name.current is not None and name.current in sent:
                self._give_up(parameter, sent[name.current], refusal)
        now = {name.current for name in self._names.values()}
        return any(self._sent_as(parameter, sent) not in now for parameter in refused)

    def _sent_as(self, parameter: str, sent: Mapping[str, Any]) -> str | None:
        return next((name for name in self._names[parameter].tried if name in sent), None)

    def _refused(self, sent: Mapping[str, Any], refusal: Refusal) -> list[str]:
        """The parameters that a refusal is about; of two that exclude each other, the one to give up."""
        offered = {p: name for p in PARAMETERS if (name := self._sent_as(p, sent)) is not None}
        refused = [parameter for parameter, name in offered.items() if _is_refused(name, sent[name], refusal)]
        pair = ("temperature", "top_p")
        if set(pair) <= set(refused) and ONE_OF_TWO.search(refusal.evidence):
            gone = [parameter for parameter in pair if self._names[parameter].current is None]
            neutral = [parameter for parameter in reversed(pair) if sent[offered[parameter]] == NEUTRAL[parameter]]
            kept = {(gone or neutral or ["top_p"])[0]}
            refused = [parameter for parameter in refused if parameter not in pair or parameter in kept]
        return refused

    def _give_up(self, parameter: str, value: object, refusal: Refusal) -> None:
        """Another name for a parameter, or none."""
        name, host = self._names[parameter], self._config.host
        before = name.current
        proposed = [found for found in IN_PLACE.findall(refusal.evidence) if _is_alike(found, parameter)]
        untried = [other for other in (*proposed, *OTHER_NAMES.get(parameter, ())) if other not in name.tried]
        if untried and len(name.tried) < MAX_NAMES:
            name.current = untried[0]
            name.tried.append(untried[0])
            logger.warning("%s does not take %s; it is sent as %s from now on", host, before, name.current)
            return
        harmless = NEUTRAL.get(parameter) == value or parameter == "seed"
        if parameter in self._required and not harmless:
            raise NotTakenError(f"{host} does not take {parameter} {value}; leave the option out to take its own")
        if parameter == LENGTH and self._config.budget.spend_limit is not None:
            raise NotTakenError(
                f"{host} takes no limit on the length of a reply, so that a spend_limit cannot be kept; take"
                " spend_limit out of the endpoint's table, or name the parameter in its `rename`"
            )
        name.current = None
        logger.warning("%s does not take %s; %s", host, before, _consequence(parameter, value))


def _consequence(parameter: str, value: object) -> str:
    if parameter == "seed":
        return "it is asked without one, and its replies cannot be repeated"
    if NEUTRAL.get(parameter) == value:
        return f"it is left out, and the server's own default holds in place of {value}"
    if parameter == LENGTH:
        return "replies are as long as the server lets them be"
    return f"RESULTS ARE NOT AT {parameter} {value}, but at the server's own default"


def _is_alike(proposed: str, parameter: str) -> bool:
    """Whether a proposed name is one for this parameter, not for another."""
    words = proposed.lower().split("_")
    return parameter in {LENGTH, "seed"} and parameter.rsplit("_", maxsplit=1)[-1] in words and "min" not in words


def _is_refused(name: str, value: object, refusal: Refusal) -> bool:
    """Whether a refusal says clearly that a parameter is not taken."""
    spelt = re.compile(rf"(?<!\w){name.replace('_', '[_ -]?')}(?!\w)", re.IGNORECASE)
    evidence = INDENTED.sub(": ", refusal.evidence)
    clauses = [clause for clause in CLAUSE.split(evidence) if spelt.search(clause)]
    named = bool(clauses) or any(spelt.search(place) for place in refusal.places)
    if not named:
        return False
    if any(ONLY_DEFAULT.search(clause) for clause in clauses):
        return name in NEUTRAL
    if any(NOT_TAKEN.search(clause) and not _is_value(clause) for clause in clauses):
        return True
    if any(_is_value(clause) for clause in clauses):
        return name == "seed" or NEUTRAL.get(name) == value
    if name == "seed" and any("invalid" in clause.lower() for clause in clauses):
        return True
    alone = any(spelt.fullmatch(place) for place in refusal.places)
    return alone and bool(NOT_TAKEN.search(evidence)) and not _is_value(evidence)


def _is_value(text: str) -> bool:
    return bool(OUT_OF_RANGE.search(text))
