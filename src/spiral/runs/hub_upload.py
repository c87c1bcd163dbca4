"""Sending folders to the Hugging Face hub with its own client, with errors that say what to do and never the token."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, Literal

TRIES = 3
WAIT_SECONDS = 2.0
"""Between two tries; the client itself has tried several times by then."""
AGAIN = "run the same command again, which does not send twice what has arrived"


class PushError(RuntimeError):
    """The hub did not take everything; the message says what to do."""


def check_name(repo: str) -> None:
    """Raises `ValueError` for a name that no repository of the hub can have."""
    from huggingface_hub import utils
    from huggingface_hub.errors import HFValidationError

    untyped: Any = utils
    try:
        untyped.validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"--repo: {error}") from error


class Hub:
    """The hub, with the user's token."""

    def __init__(self) -> None:
        """Reads the token from HF_TOKEN or from where `hf auth login` keeps it. Raises `ValueError` without one."""
        from huggingface_hub import HfApi, get_token, utils

        token = get_token()
        if not token:
            raise ValueError("there is no token for the Hugging Face hub; run `hf auth login`, or set HF_TOKEN")
        if not sys.stderr.isatty():
            untyped: Any = utils
            untyped.disable_progress_bars()
        self._token = token
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)
        self.endpoint = self._api.endpoint

    def full_name(self, repo: str) -> str:
        """`repo` with the user's own name before it, unless it has one."""
        return repo if "/" in repo else f"{self._asked(repo, self._api.whoami)['name']}/{repo}"

    def create(self, repo: str, kind: Literal["model", "dataset"], *, private: bool) -> bool:
        """Creates a repository, or finds it there. Returns whether it is new.

        Raises:
            ValueError: It is there and public, and a private one is wanted.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            there = self._asked(repo, self._api.repo_info, repo, repo_type=kind, passing=(RepositoryNotFoundError,))
        except RepositoryNotFoundError:
            self._asked(repo, self._api.create_repo, repo, repo_type=kind, private=private or None, exist_ok=True)
            return True
        if private and not there.private:
            raise ValueError(
                f"{repo} is on the hub already and public; choose another --repo, make it private there, or leave"
                " --private out"
            )
        return False

    def upload(self, folder: Path, repo: str, kind: Literal["model", "dataset"], message: str) -> str:
        """Sends a folder as one commit, and removes nothing else. Returns the address of the repository."""
        self._asked(
            repo, self._api.upload_folder, repo_id=repo, folder_path=folder, repo_type=kind, commit_message=message
        )
        return f"{self.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo}"

    def _asked(
        self, repo: str, call: Any, *arguments: Any, passing: tuple[type[Exception], ...] = (), **options: Any
    ) -> Any:
        """Calls the client, again when the hub is out of reach or busy. Raises `PushError` for what it refuses."""
        for attempt in range(TRIES):
            try:
                return call(*arguments, **options)
            except passing:
                raise
            except Exception as error:  # of httpx, of the client, of the disk
                if isinstance(error, OSError) and error.errno is not None and _status(error) is None:
                    raise
                if attempt + 1 < TRIES and _may_pass(error):
                    time.sleep(WAIT_SECONDS * 2**attempt)
                    continue
                # "from None": the client's own error holds the request, whose headers hold the token
                raise PushError(self._explained(repo, error)) from None
        raise AssertionError("the last try returns or raises")

    def _explained(self, repo: str, error: Exception) -> str:
        """What the hub refused, and what to do; without the token, whatever the server repeats."""
        status = _status(error)
        said = str(getattr(error, "server_message", None) or "")
        message = f" It says: {said.replace(self._token, '***')[:300]}" if said else ""
        if status == 401:
            return f"the hub does not know the token (401); run `hf auth login` again, or set HF_TOKEN.{message}"
        if status == 403:
            return f"the token may not write to {repo} (403); use one with the permission to write there.{message}"
        if status == 404:
            return f"the hub has no place for {repo} (404): no such user or organisation, or not yours.{message}"
        if status == 409:
            return f"{repo} conflicts with what is on the hub (409), such as a push at the same time; {AGAIN}.{message}"
        if status is not None:
            return f"the hub refused {repo} with status {status}; {AGAIN}.{message}"
        reason = " ".join(str(error).split()).replace(self._token, "***")[:300] or type(error).__name__
        return f"the hub at {self.endpoint} cannot be reached ({type(error).__name__}: {reason}); {AGAIN}"


def _status(error: Exception) -> int | None:
    """The HTTP status of an error; None where there was no answer."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed: no answer, too many requests, or a fault of the server."""
    status = _status(error)
    if status is None:
        return not isinstance(error, ValueError) and type(error).__name__ != "OfflineModeIsEnabled"
    return status == 429 or status >= 500
