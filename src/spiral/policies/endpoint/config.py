"""Settings of an OpenAI-compatible server: its address, sampling, prompt and budget.

`endpoint:NAME` is the table `[NAME]` of `endpoints.toml` in the current directory or else in $SPIRAL_HOME.
`endpoint:openrouter/VENDOR/MODEL` needs no file; a table `[openrouter]` can add settings. Files never hold API keys: a
table names the environment variable that holds the key, and no message shows a value that might be one.

A key is sent only to the host that it belongs to. The file in $SPIRAL_HOME is the user's own and may send any key
anywhere. A file in the current directory may have come with a cloned repository, so it may only send a known service's
key to that service, or another key to this machine. No key is sent unencrypted to another machine.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from spiral.core.settings import Section
from spiral.models.store import store_directory
from spiral.text import PromptConfig

ENDPOINT = "endpoint:"
FILE = "endpoints.toml"
OPENROUTER = "openrouter"
OPENROUTER_TABLE: dict[str, Any] = {"base_url": "https://openrouter.ai/api/v1", "api_key_env": "OPENROUTER_API_KEY"}
EXAMPLE = (
    '{} = {{base_url = "http://localhost:8000/v1", model = "NAME-OF-THE-MODEL", api_key_env = "VARIABLE-WITH-THE-KEY"}}'
)
PARAMETERS = ("temperature", "top_p", "max_tokens", "seed")
"""Parameters of a request besides the model and the messages."""
LENGTH = "max_tokens"
"""The parameter that limits the length of a reply, by its oldest name."""
FIXED = frozenset({*PARAMETERS, "max_completion_tokens", "model", "messages", "stream", "n", "tools", "logprobs"})
"""Parameters that `extra` may not set: they have their own settings, or change the form of the reply."""
KEY_HOSTS = {
    "OPENAI": ("openai.com",),
    "OPENROUTER": ("openrouter.ai",),
    "ANTHROPIC": ("anthropic.com",),
    "AZURE": ("azure.com",),
    "GEMINI": ("googleapis.com",),
    "GOOGLE": ("googleapis.com",),
    "GCP": ("googleapis.com",),
    "VERTEX": ("googleapis.com",),
    "MISTRAL": ("mistral.ai",),
    "GROQ": ("groq.com",),
    "DEEPSEEK": ("deepseek.com",),
    "TOGETHER": ("together.xyz", "together.ai"),
    "FIREWORKS": ("fireworks.ai",),
    "XAI": ("x.ai",),
    "COHERE": ("cohere.com", "cohere.ai"),
    "CEREBRAS": ("cerebras.ai",),
    "NVIDIA": ("nvidia.com",),
    "PERPLEXITY": ("perplexity.ai",),
    "MOONSHOT": ("moonshot.ai", "moonshot.cn"),
    "DASHSCOPE": ("aliyuncs.com",),
    "HF": ("huggingface.co",),
    "HUGGINGFACE": ("huggingface.co",),
    "HUGGING": ("huggingface.co",),
    "AWS": ("amazonaws.com",),
    "GITHUB": ("github.com", "github.ai", "githubcopilot.com"),
    "GH": ("github.com", "github.ai", "githubcopilot.com"),
    "WANDB": ("wandb.ai",),
}
"""The hosts of each service, by the first word of the environment variable that holds its key."""
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
"""Upper case only, so that a key that was written here by mistake is not taken for a name and shown."""


class BudgetConfig(Section):
    """The server's prices, and a limit on what one command may spend."""

    prompt_price: float | None = Field(None, ge=0, description="Dollars for a million prompt tokens.")
    completion_price: float | None = Field(None, ge=0, description="Dollars for a million reply tokens.")
    spend_limit: float | None = Field(
        None, ge=0, description="Dollars; no request is sent that could exceed it. Needs both prices."
    )

    @model_validator(mode="after")
    def _limit_needs_prices(self) -> BudgetConfig:
        if self.spend_limit is not None and (self.prompt_price is None or self.completion_price is None):
            raise ValueError("spend_limit needs prompt_price and completion_price, to bound the cost of a request")
        return self


class EndpointConfig(Section):
    """An OpenAI-compatible server and one of its models."""

    base_url: str = Field(description="For example http://localhost:8000/v1; requests go to its chat/completions.")
    model: str = Field(min_length=1, description="The server's name of the model.")
    api_key_env: str | None = Field(
        None, description="The environment variable that holds the key; leave it out if the server needs no key."
    )
    temperature: float = Field(1.0, ge=0, description="Like sampling.temperature.")
    top_p: float = Field(1.0, gt=0, le=1, description="Like sampling.top_p.")
    max_new_tokens: int = Field(4096, ge=1, description="Response budget in tokens, thinking included.")
    max_in_flight: int = Field(16, ge=1, description="Requests in flight at once.")
    requests_per_minute: float = Field(0.0, ge=0, description="Requests are spaced evenly; 0 is no limit.")
    retries: int = Field(6, ge=0, description="Retries of a failed request before its game is given up.")
    timeout_seconds: float = Field(300.0, gt=0, description="Time limit of one reply.")
    omit: list[str] = Field([], description=f"Parameters not to send, from {', '.join(PARAMETERS)}.")
    rename: dict[str, str] = Field({}, description="Other names, for example {max_tokens = 'max_completion_tokens'}.")
    extra: dict[str, Any] = Field(
        {}, description="Sent with every request as it is, for example {reasoning_effort = 'low'}."
    )
    prompt: PromptConfig = Field(PromptConfig(), description="The prompt; the chat template is the server's.")
    budget: BudgetConfig = Field(BudgetConfig(), description="Prices and the spend limit.")

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            well_formed = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:  # an invalid port or address
            well_formed = False
        if not well_formed or url != url.strip():
            raise ValueError("expected an address such as http://HOST:PORT/v1")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                "expected an address without user, password or query; name the key's variable in api_key_env"
            )
        return url

    @field_validator("api_key_env")
    @classmethod
    def _check_variable(cls, name: str | None) -> str | None:
        if name is not None and not VARIABLE.fullmatch(name):
            raise ValueError(
                "expected the name of an environment variable in upper case; never write the key itself here"
            )
        return name

    @field_validator("prompt")
    @classmethod
    def _check_template(cls, prompt: PromptConfig) -> PromptConfig:
        if prompt.template != "chat":
            raise ValueError(f"got the template {prompt.template!r}; expected 'chat', since the server uses its own")
        if prompt.history_thoughts == "keep":
            raise ValueError(
                "got history_thoughts 'keep'; expected 'drop', since a server's template may drop thoughts that are"
                " sent to it"
            )
        return prompt

    @field_validator("omit")
    @classmethod
    def _check_omitted(cls, omit: list[str]) -> list[str]:
        unknown = [name for name in omit if name not in PARAMETERS]
        if unknown:
            raise ValueError(f"got {unknown[0][:40]!r}; expected names from {', '.join(PARAMETERS)}")
        return omit

    @field_validator("rename")
    @classmethod
    def _check_renamed(cls, rename: dict[str, str]) -> dict[str, str]:
        for name, other in rename.items():
            if name not in PARAMETERS:
                raise ValueError(f"got {name[:40]!r}; expected names from {', '.join(PARAMETERS)}")
            taken = (FIXED | set(rename)) - {name, "max_completion_tokens"}
            if not PARAMETER.fullmatch(other) or other in taken:
                raise ValueError(
                    f"rename.{name} is not a valid or free parameter name; choose another, such as"
                    " 'max_completion_tokens'"
                )
        if len(set(rename.values())) < len(rename):
            raise ValueError("two parameters have the same name; give each parameter its own")
        return rename

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, extra: dict[str, Any]) -> dict[str, Any]:
        fixed = sorted(FIXED & set(extra))
        if fixed:
            raise ValueError(f"{fixed[0]!r} cannot be set here; expected parameters that have no setting here")
        try:
            json.dumps(extra, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError("expected JSON values: texts, numbers, lists and tables") from None
        return extra

    @model_validator(mode="after")
    def _check_together(self) -> EndpointConfig:
        if self.budget.spend_limit is not None and LENGTH in self.omit:
            raise ValueError(f"a budget.spend_limit needs {LENGTH} to be sent, to bound the cost of a request")
        if set(self.omit) & set(self.rename):
            raise ValueError("omit and rename name the same parameter; leave it out of one of them")
        if set(self.extra) & set(self.rename.values()):
            raise ValueError("extra and rename use the same name; leave it out of one of them")
        if self.api_key_env is not None and urlsplit(self.base_url).scheme != "https" and not self.is_local:
            raise ValueError(
                f"base_url: the key would be sent to {self.host} unencrypted; use https://, or an ssh tunnel to a port"
                " of this machine (http://localhost:PORT/v1)"
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        name = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost" or name.endswith(".localhost")

    @property
    def host(self) -> str:
        """Host and port, which name the server in messages."""
        return urlsplit(self.base_url).netloc

    def api_key(self) -> str | None:
        """The key from the environment; None when the server needs none. Raises `ValueError` when it is missing."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise ValueError(
                f"the key for {self.host} is missing: the environment variable {self.api_key_env} is not set; run"
                f" `export {self.api_key_env}=...` first"
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ValueError(
                f"the environment variable {self.api_key_env} is not a valid key; keys are printable ASCII"
            )
        return key


def load_endpoint(name: str) -> EndpointConfig:
    """The settings of `endpoint:NAME`. Raises `ValueError` as `find_endpoint` does."""
    return find_endpoint(name)[0]


def find_endpoint(name: str) -> tuple[EndpointConfig, Path | None]:
    """The settings of `endpoint:NAME`, and the file that holds them (None without a file).

    Raises:
        ValueError: There is no such endpoint (the message shows what to write), its settings are wrong, or it would
            send a key to a host that the key does not belong to.
    """
    vendor, slash, model = name.partition("/")
    if slash:
        if vendor != OPENROUTER or "/" not in model or re.search(r"\s", model):
            raise ValueError(f"got endpoint {name!r}; expected a table's name, or {OPENROUTER}/VENDOR/MODEL")
        table, file = _find_table(OPENROUTER)
        where = f"{file or 'endpoint'}: [{OPENROUTER}]"
        if table is not None and "base_url" in table:
            raise ValueError(f"{where}: base_url cannot be set here; use a table of another name for another host")
        config = _checked({**OPENROUTER_TABLE, **(table or {}), "model": model}, where)
    else:
        if not BARE_KEY.fullmatch(name):
            raise ValueError(f"got endpoint {name!r}; expected letters, digits, - and _, or {OPENROUTER}/VENDOR/MODEL")
        table, file = _find_table(name)
        if table is None:
            files = " or ".join(str(file) for file in _files())
            raise ValueError(
                f"there is no endpoint {name!r}; write a line like this one into {files}: {EXAMPLE.format(name)}"
                f" (or use {ENDPOINT}{OPENROUTER}/VENDOR/MODEL)"
            )
        where = f"{file}: [{name}]"
        config = _checked(table, where)
    trusted = file is None or file.resolve() == _files()[1].resolve()
    if not trusted and table is not None and "api_key_env" in table:
        _check_key_host(config, where)
    return config, file


def _check_key_host(config: EndpointConfig, where: str) -> None:
    """Raises `ValueError` when an untrusted file sends a key to a host that the key is not known to belong to."""
    variable = config.api_key_env or ""
    hosts = KEY_HOSTS.get(variable.split("_")[0])
    name = (urlsplit(config.base_url).hostname or "").rstrip(".").lower()
    if any(name == host or name.endswith(f".{host}") for host in hosts or ()):
        return
    if hosts is None and config.is_local:
        return
    raise ValueError(
        f"{where} would send the value of {variable} to {config.host}, and a file in the current directory may have"
        f" come from elsewhere; if you mean it, move the table to {_files()[1]}"
    )


def _files() -> tuple[Path, Path]:
    """Files that may hold endpoints, the first one first: in the current directory and in $SPIRAL_HOME."""
    return Path(FILE), store_directory().parent / FILE


def _find_table(name: str) -> tuple[dict[str, Any] | None, Path | None]:
    """The first table of that name and its file; None and None when there is none."""
    for file in _files():
        if not file.is_file():
            continue
        try:
            tables = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        if name in tables:
            if not isinstance(tables[name], dict):
                raise ValueError(f"{file}: {name!r} is not a table; expected {EXAMPLE.format(name)}")
            return tables[name], file
    return None, None


def _checked(table: dict[str, Any], where: str) -> EndpointConfig:
    """The table as settings. Raises `ValueError` with the first error, which never shows text that might be a key."""
    try:
        return EndpointConfig.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            fields = ", ".join(EndpointConfig.model_fields)
            raise ValueError(f"{where}: unknown key {key!r}; expected some of {fields}") from None
        got = f"got {first['input']!r}; " if isinstance(first["input"], int | float) else ""
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(": ".join(filter(None, (where, key, f"{got}{message}")))) from None
