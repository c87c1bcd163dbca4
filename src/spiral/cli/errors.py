"""From an exception to an exit status and one line that says what to do."""

from __future__ import annotations

import typer

from spiral.core.printable import one_line
from spiral.games.failures import UserCodeError, find_game_failure

FAILED = 1
MISUSED = 2
INTERRUPTED = 130
MAX_MESSAGE = 1_500
"""Characters of an error's message. Paths may be long, and the end of a message says what to do."""


class Stopped(Exception):  # noqa: N818 (it carries an exit status, and may be a success cut short)
    """The command ended early. The message is printed as it is."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def explain(error: BaseException) -> tuple[int, str]:
    """The exit status and the line for anything that a command raised."""
    status, message = _user_code_error(error) or _wrong_use(error) or _failure(error)
    message = one_line(message)
    if len(message) > MAX_MESSAGE and not isinstance(error, Stopped):
        message = f"{message[: MAX_MESSAGE // 2]} [...] {message[-MAX_MESSAGE // 2 :]}"
    return status, message


def _user_code_error(error: BaseException) -> tuple[int, str] | None:
    """For a game or an estimator of the user's that failed; None for anything else."""
    if isinstance(error, UserCodeError):
        return FAILED, str(error)
    failure = find_game_failure(error) if isinstance(error, Exception | SystemExit) else None
    return None if failure is None or failure.native else (FAILED, failure.message)


def _wrong_use(error: BaseException) -> tuple[int, str] | None:
    """For a command line that cannot be parsed or a wrong value; None for anything else."""
    usage = getattr(error, "format_message", None)  # typer's usage errors, whose class differs between its versions
    if usage is not None:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "spiral"
        return MISUSED, f"{usage().rstrip('.')}; see `{command} --help`"
    return (MISUSED, str(error)) if isinstance(error, ValueError) else None


def _failure(error: BaseException) -> tuple[int, str]:
    """Exit status and message of work that was under way and could not continue."""
    if isinstance(error, Stopped):
        return error.status, str(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED, "interrupted"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return FAILED, (
            "out of memory; lower learner.tokens_per_microbatch, selfplay.in_flight, evaluation.in_flight or"
            " sampling.max_new_tokens"
        )
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):  # click ends like this
        return FAILED, "standard output was closed before the command was done"
    if isinstance(error, OSError):
        return FAILED, describe_os_error(error)
    return FAILED, f"{type(error).__name__}: {error} (a bug in spiral; SPIRAL_DEBUG=1 shows where)"


def describe_os_error(error: OSError) -> str:
    """The system's message, with the file it is about."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason
