"""Find what a recipe names: something built in, an installed entry point, or "module:attribute".

Everything that a user can exchange (advantage estimators, losses, opponent samplers, rewards, trackers) is found here.
A package adds one by an entry point in its pyproject, whose group is "spiral." and the kind:

    [project.entry-points."spiral.rewards"]
    brevity = "my_package.rewards:brevity"

A class or function of one's own needs no package: a recipe names it by "my_module:my_function".
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from typing import Any, TypeVar

from spiral.games.failures import UserCodeError, describe_error
from spiral.games.installed import entry_points

T = TypeVar("T")


def resolve(kind: str, name: str, builtin: Mapping[str, T]) -> T:
    """Return the class or function called `name`.

    Built-in names come first, so that no package can replace them; then entry points; then "module:attribute".

    Args:
        kind: The plural noun of what is looked for, such as "rewards". Entry points are in the group "spiral.rewards".
        name: The name in a recipe.
        builtin: The built-in names and what they stand for.

    Raises:
        ValueError: There is no such name, it cannot be imported, or it is not callable.
    """
    if name in builtin:
        return builtin[name]
    installed = _installed(kind)
    if name in installed or ":" in name:
        found: T = _load(kind, name, installed[name].value if name in installed else name)
        return found
    near = difflib.get_close_matches(name, [*builtin, *installed], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    added = names(kind, builtin)[len(builtin) :]
    packages = f", and from installed packages {', '.join(added)}" if added else ""
    raise ValueError(
        f"there is no {name!r} among the {kind}{hint} Known {kind}: {', '.join(builtin)}{packages};"
        " or give 'module:attribute' for one of your own"
    )


def check_options(
    name: str, found: Callable[..., object], options: Mapping[str, object], *, positional: int = 0
) -> None:
    """Refuse options that a class or function does not have, and the lack of those that it needs.

    Args:
        name: What the recipe calls it.
        found: The class or function, which takes the options as keyword arguments.
        options: The options in the recipe.
        positional: The number of arguments that come before the options.

    Raises:
        ValueError: An option is unknown or missing.
    """
    try:
        parameters = list(inspect.signature(found).parameters.values())[positional:]
    except ValueError:  # written in C, without a signature
        return
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = {parameter.name: parameter for parameter in parameters if parameter.kind in by_name}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    unknown = [] if takes_any else [option for option in options if option not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        listed = f"its options: {', '.join(known)}" if known else "it has none"
        hint = f"did you mean {near[0]!r}?" if near else listed
        raise ValueError(f"{name!r} has no option {unknown[0]!r}; {hint}")
    missing = [option for option in known if known[option].default is inspect.Parameter.empty and option not in options]
    if missing:
        raise ValueError(f"{name!r} needs the option {missing[0]!r}")


def check_call(name: str, found: Callable[..., object], *arguments: str) -> None:
    """Refuse a class or function that does not take the arguments that it is called with before its options.

    Args:
        name: What the recipe calls it.
        found: The class or function.
        arguments: The names of the arguments, for the message.

    Raises:
        ValueError: It does not take these arguments; the message says how it is called.
    """
    try:
        signature = inspect.signature(found)
    except ValueError:  # written in C, without a signature
        return
    try:
        signature.bind_partial(*arguments)
    except TypeError as error:
        call = ", ".join((*arguments, "**options"))
        raise ValueError(
            f"{name!r} is called as {name.rpartition(':')[2]}({call}), but takes {signature}; give it the"
            f" {'argument' if len(arguments) == 1 else 'arguments'} {', '.join(arguments)}"
        ) from error


def construct(
    noun: str,
    name: str,
    found: Callable[..., object],
    expected: type[T],
    argument: tuple[str, object],
    options: Mapping[str, object],
    setting: str,
) -> T:
    """Return what a class or function that `resolve` found makes of one argument and the options of a recipe.

    Args:
        noun: What is made, such as "opponent sampler".
        name: What the recipe calls it.
        found: The class or function.
        expected: The class of what is made.
        argument: The name and value of the argument that comes before the options.
        options: The options in the recipe.
        setting: The setting that has the name, such as "selfplay.opponent_sampler".

    Raises:
        ValueError: It does not take the argument or the options, or makes something else.
        UserCodeError: It failed.
    """
    label, value = argument
    check_call(name, found, label)
    check_options(name, found, options, positional=1)
    try:
        made = found(value, **options)
    except ValueError:
        raise
    except (Exception, SystemExit) as error:
        raise UserCodeError(f"the {noun} {name!r} failed to start: {describe_error(error)}") from error
    if not isinstance(made, expected):
        raise ValueError(
            f"{setting} is {name!r}, which gives a {type(made).__name__}; expected a subclass of"
            f" {expected.__module__}.{expected.__qualname__}"
        )
    return made


def names(kind: str, builtin: Mapping[str, object]) -> tuple[str, ...]:
    """Return every name that `resolve` finds without a module: the built-in ones, then those of installed packages."""
    return (*builtin, *(name for name in sorted(_installed(kind)) if name not in builtin))


def _installed(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"spiral.{kind}")}


def _load(kind: str, name: str, path: str) -> Any:
    """Import "module:attribute". A user's module can raise anything when it is imported, `SystemExit` included."""
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        here = isinstance(error, ModuleNotFoundError) and error.name == module
        hint = f"; if {module}.py is in this directory, run with PYTHONPATH=." if here else ""
        source = "" if path == name else f" from {path!r}"
        raise ValueError(
            f"{name!r}, one of the {kind}, cannot be imported{source}: {type(error).__name__}: {error}{hint}"
        ) from error
    if not callable(found):
        raise ValueError(f"{name!r} is a {type(found).__name__}; expected a class or function for the {kind}")
    return found
