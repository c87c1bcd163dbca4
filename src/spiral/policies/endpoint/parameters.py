"""The parameters of a request besides its messages: sampling, length limit and seed.

Servers accept different parameters. The table of an endpoint can leave some out (`omit`) or rename them (`rename`).
Otherwise the first error that names a parameter decides: from then on the parameter is sent under another name or left
out. Each name is given up at most once, so requests to a server that refuses everything end. Every change is
logged in one line and listed in the usage. A value out of range is an error of the request: leaving the parameter out
would change the experiment.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping
from typing import Any

from spiral.core.policy import SamplingConfig
from spiral.policies.endpoint.config import LENGTH, PARAMETERS, EndpointConfig
from spiral.policies.endpoint.reply import Refusal

MAX_SEED = 2**31
"""Seeds are below this, which every server accepts."""
OTHER_NAMES = {LENGTH: ("max_tokens", "max_completion_tokens")}
"""Other names of a parameter, the older one first."""
MAX_NAMES = 3
"""Names to try for one parameter, including those that the server proposes."""
NEUTRAL = {"temperature": 1.0, "top_p": 1.0}
"""Values without effect; a parameter with such a value can be left out safely."""
NOT_ACCEPTED = re.compile(
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
"""Pydantic's errors continue on indented lines."""
CLAUSE = re.compile(
    r"(?<=[.;!?])\s+|\n|\}\s*,?|(?:\bplease|\bPlease)?\s*\b[Uu]se\s|\b[Ss]upported (?:ones|parameters)\b"
)


logger = logging.getLogger(__name__)


class NotAcceptedError(Exception):
    """The server does not accept a parameter that must not be left out."""


@dataclasses.dataclass
class _Name:
    """The name of a parameter."""

    current: str | None
    """None when the parameter is left out."""
    tried: list[str]


class Parameters:
    """The parameters that a server accepts and their names, as far as known."""

    def __init__(self, config: EndpointConfig, required: frozenset[str] = frozenset()) -> None:
        """`required` parameters were set by the user on the command line and are never left out."""
        self._config = config
        self._required = required
        self._names: dict[str, _Name] = {}
        for parameter in PARAMETERS:
            name = config.rename.get(parameter, parameter)
            self._names[parameter] = _Name(None if parameter in config.omit else name, [name])

    def values(self, sampling: SamplingConfig, seed: int) -> dict[str, Any]:
        """The parameters of one request under the server's names."""
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
        """Parameters that are not sent."""
        return tuple(parameter for parameter, name in self._names.items() if name.current is None)

    @property
    def renamed(self) -> dict[str, str]:
        """Parameters that are sent under another name."""
        names = {parameter: name.current for parameter, name in self._names.items()}
        return {parameter: name for parameter, name in names.items() if name is not None and name != parameter}

    def learn(self, sent: Mapping[str, Any], refusal: Refusal) -> bool:
        """Adapts to the refusal of a request.

        Args:
            sent: The parameters of the refused request.
            refusal: The server's error.

        Returns:
            Whether `values` differs now, so that the request is worth sending again.

        Raises:
            NotAcceptedError: The server refuses a parameter that must not be left out.
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
        """The parameters that an error refuses. Of two that exclude each other, only the one to give up."""
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
        """Renames a parameter, or leaves it out when no name is left to try."""
        name, host = self._names[parameter], self._config.host
        before = name.current
        proposed = [found for found in IN_PLACE.findall(refusal.evidence) if _is_alike(found, parameter)]
        untried = [other for other in (*proposed, *OTHER_NAMES.get(parameter, ())) if other not in name.tried]
        if untried and len(name.tried) < MAX_NAMES:
            name.current = untried[0]
            name.tried.append(untried[0])
            logger.warning("%s does not accept %s; sending it as %s from now on", host, before, name.current)
            return
        harmless = NEUTRAL.get(parameter) == value or parameter == "seed"
        if parameter in self._required and not harmless:
            raise NotAcceptedError(
                f"{host} does not accept {parameter} {value}; leave the option out to use the server's default"
            )
        if parameter == LENGTH and self._config.budget.spend_limit is not None:
            raise NotAcceptedError(
                f"{host} accepts no limit on the length of a reply, so the spend_limit cannot be guaranteed; remove"
                " spend_limit from the endpoint's table, or give the server's name of the parameter in `rename`"
            )
        name.current = None
        logger.warning("%s does not accept %s; %s", host, before, _consequence(parameter, value))


def _consequence(parameter: str, value: object) -> str:
    if parameter == "seed":
        return "sending none, so its replies cannot be reproduced"
    if NEUTRAL.get(parameter) == value:
        return f"leaving it out, so the server's default replaces {value}"
    if parameter == LENGTH:
        return "leaving it out, so only the server limits the length of replies"
    return f"RESULTS ARE NOT AT {parameter} {value}, but at the server's default"


def _is_alike(proposed: str, parameter: str) -> bool:
    """Whether a name that the server proposes fits this parameter."""
    words = proposed.lower().split("_")
    return parameter in {LENGTH, "seed"} and parameter.rsplit("_", maxsplit=1)[-1] in words and "min" not in words


def _is_refused(name: str, value: object, refusal: Refusal) -> bool:
    """Whether an error clearly says that the server does not accept a parameter."""
    spelled = re.compile(rf"(?<!\w){name.replace('_', '[_ -]?')}(?!\w)", re.IGNORECASE)
    evidence = INDENTED.sub(": ", refusal.evidence)
    clauses = [clause for clause in CLAUSE.split(evidence) if spelled.search(clause)]
    named = bool(clauses) or any(spelled.search(field) for field in refusal.fields)
    if not named:
        return False
    if any(ONLY_DEFAULT.search(clause) for clause in clauses):
        return name in NEUTRAL
    if any(NOT_ACCEPTED.search(clause) and not _is_out_of_range(clause) for clause in clauses):
        return True
    if any(_is_out_of_range(clause) for clause in clauses):
        return name == "seed" or NEUTRAL.get(name) == value
    if name == "seed" and any("invalid" in clause.lower() for clause in clauses):
        return True
    alone = any(spelled.fullmatch(field) for field in refusal.fields)
    return alone and bool(NOT_ACCEPTED.search(evidence)) and not _is_out_of_range(evidence)


def _is_out_of_range(text: str) -> bool:
    return bool(OUT_OF_RANGE.search(text))
