r"""Text that others write reaches a terminal as text: one filter, wherever something is shown."""

from __future__ import annotations

import datetime
import io
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
from rich.text import Text

from commands import refused, spiral, tiny_settings
from spiral.cli.app import log_to_stderr
from spiral.cli.errors import explain
from spiral.core.metrics import Matchup
from spiral.core.printable import one_line, printable
from spiral.core.terminal import Terminal
from spiral.models.loading import NANO_DIRECTORY
from spiral.policies import ScriptedPolicy, TurnReply, scripted_policy
from spiral.runs.display import PlainDisplay, Watched, make_display, plain_table, wide_console

HOSTILE = "\x1b]0;PWNED\x07\x1b[2J\x9b31m\r\u202eevil\u2066\u200b\ud800\u2028[red]:smile:[/]\b"
SHOWN = r"\u001b]0;PWNED\u0007\u001b[2J\u009b31m\u000d\u202eevil\u2066\u200b\ud800\u2028[red]:smile:[/]\u0008"
WRITABLE, WRITTEN = HOSTILE.replace("\ud800", ""), SHOWN.replace(r"\ud800", "")
"""The same as a file can hold it."""
ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]"
)


def harmless(text: str) -> str:
    """The text, which must be without anything that a terminal obeys."""
    assert ACTING.findall(text) == []
    return text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with é, 中文, 😀 and \\boxed{4}", "plain, with é, 中文, 😀 and \\boxed{4}"),
        ("two\nlines\tand a tab\r\nand one of Windows", "two\nlines\tand a tab\nand one of Windows"),
        (HOSTILE, SHOWN),
        ("\x00\x7f\x85\x0b\x0c", r"\u0000\u007f\u0085\u000b\u000c"),
        ("a\u00adb\u061cc\ufeffd\u2060e", r"a\u00adb\u061cc\ufeffd\u2060e"),
        ("\U000e0041\U000e0141\u3164\u2800", r"\U000e0041\U000e0141\u3164\u2800"),
        ("\u0645\u06cc\u200c\u062e \U0001f468\u200d\U0001f469", "\u0645\u06cc\u200c\u062e \U0001f468\u200d\U0001f469"),
        ("ad\u200dmin \u200c", r"ad\u200dmin \u200c"),
        ("\u200d", r"\u200d"),
        ("e\u0301 और กี่", "e\u0301 और กี่"),
        ("z" + "\u0301" * 6, "z" + "\u0301" * 4 + r"\u0301\u0301"),
    ],
)
def test_what_is_shown_of_a_text(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown, "filtered twice is filtered once"
    assert "\r" not in printable(text)


def test_a_long_line_is_cut_and_a_message_keeps_its_end():
    assert printable("a" * 5000 + "\nb") == "a" * 4000 + " ... (1,000 more characters)\nb"
    assert printable("\n".join(["a" * 3999] * 3)) == "\n".join(["a" * 3999] * 3)
    message = one_line("begins\n" + "x " * 40_000 + "\x1b ends; do this")
    assert len(message) < 2100
    assert message.startswith("begins x x")
    assert message.endswith(r"\u001b ends; do this")
    assert "more characters)" in message
    assert one_line(" a \n\t b\r\nc ") == "a b c"


def test_markup_and_emoji_are_printed_literally(capsys):
    console = wide_console()
    console.print("[red]a[/] [/] :smile: [link=http://x]b[/link]", soft_wrap=True)
    console.print(Text(f"{HOSTILE} :wave:"), soft_wrap=True)
    table = plain_table("[bold]name[/]")
    table.add_row(HOSTILE)
    table.add_row("[/]")
    console.print(table)
    out = harmless(capsys.readouterr().out)
    assert out.splitlines()[0] == "[red]a[/] [/] :smile: [link=http://x]b[/link]"
    assert r"\u001b[2J\u009b31m\u202eevil" in out, "rich takes a bell and a carriage return out of a `Text` by itself"
    assert "[red]:smile:[/] :wave:" in out
    assert "[bold]name[/]" in out
    assert out.splitlines()[-1].rstrip() == "[/]"
    assert SHOWN in out.splitlines()[-2]


def test_the_progress_of_training(capsys):
    games = Matchup(game=HOSTILE)
    make = make_display("title", _Pace(), Watched(trained=(games,)), {})
    assert isinstance(make, PlainDisplay)
    metrics = {games.key(name, 0): 0.0 for name in ("return", "win", "illegal", "response_length")}
    make.show(1, {**metrics, games.key("draw"): 0.0, "time/turns_per_s": 1.0, "time/tokens_per_s": 1.0})
    assert f"{SHOWN[:48]}... " in harmless(capsys.readouterr().err)
    terminal = Terminal(file=io.StringIO(), force_terminal=True, width=200)
    terminal.print(Text(HOSTILE))
    assert r"\u001b[2J\u009b31m\u202eevil" in harmless(terminal.file.getvalue())


class _Pace:
    steps, per_step, unit, elapsed = 1, 1, "games", 0.0

    def remaining(self, step):
        return 0.0


@pytest.fixture
def hostile_model(tmp_path):
    """The built-in model, whose replies begin with an escape sequence in every move."""
    path = shutil.copytree(NANO_DIRECTORY, tmp_path / "hostile")
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        if token["content"].startswith("\\boxed{"):
            token["content"] = WRITABLE + token["content"]
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    return path


def test_a_hostile_tokenizer_in_play_and_at_the_end_of_training(hostile_model, tmp_path):
    typed = "\n".join(str(cell) for cell in range(9)) + "\n"
    played = spiral("play", str(hostile_model), "--game", "tictactoe", "--seat", "0", stdin=typed * 4)
    assert (played.status, played.err) == (0, "")
    assert " plays: " in harmless(played.out)
    run = tmp_path / "run"
    trained = spiral("train", "nano", "--model", str(hostile_model), "--run-dir", str(run), *tiny_settings())
    assert trained.status == 0
    harmless(trained.err)
    assert r"replies: \u001b]0;PWNED" in harmless(trained.out)


class Talker(ScriptedPolicy):
    """Says what it should not, with every move."""

    name = f"talker {WRITABLE}"

    def choose(self, state, player, rng):
        return state.legal_actions()[0]

    def _reply(self, request):
        reply = super()._reply(request)
        return TurnReply(
            key=reply.key, observation=reply.observation, reply=f"<think>{WRITABLE}</think>", action=reply.action
        )


class Silent(Talker):
    """Never answers, with a reason of its own."""

    def _reply(self, request):
        return TurnReply(key=request.key, observation="", reply="", action=None, fault=HOSTILE)


def use_policy(monkeypatch, kind):
    def load(name, game, options=None):
        return scripted_policy(name, game) if name == "random" else kind()

    monkeypatch.setattr("spiral.policies.registry.load_policy", load)


def test_talk_in_play(monkeypatch):
    use_policy(monkeypatch, Talker)
    typed = "\n".join(str(cell) for cell in range(9)) + "\n"
    out = harmless(spiral("play", "x", "--game", "tictactoe", "--seat", "1", "--thoughts", stdin=typed * 9).out)
    assert f"talker {WRITTEN} thought: {WRITTEN}" in out
    talk = spiral("play", "random", "--game", "simple_negotiation", "--seat", "0", stdin=f"{HOSTILE} pass\n" * 30)
    assert talk.status == 0
    harmless(talk.out)


def test_names_and_reasons_in_evaluations(monkeypatch):
    use_policy(monkeypatch, Talker)
    arguments = ("--game", "tictactoe", "--episodes", "2")
    assert f"talker {WRITTEN} against random" in harmless(
        spiral("evaluate", "x", *arguments, "--opponent", "random").out
    )
    played = spiral("tournament", "random", f"endpoint:{HOSTILE}", *arguments)
    harmless(played.out + played.err)
    use_policy(monkeypatch, Silent)
    failed = spiral("evaluate", "x", *arguments, "--opponent", "random")
    assert failed.status == 1
    assert SHOWN in harmless(failed.err)


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", f"no/{HOSTILE}", "--game", "tictactoe", "--opponent", "random"),
        ("evaluate", "random", "--game", f"tic{HOSTILE}", "--opponent", "random"),
        ("train", f"{HOSTILE}.toml"),
        ("train", "nano", "--set", f"run.{HOSTILE}=1"),
        ("models", "get", HOSTILE),
        (HOSTILE,),
    ],
)
def test_error_lines(arguments):
    assert ACTING.findall(refused(*arguments)) == []


def test_an_error_of_a_chat_template(tmp_path):
    path = shutil.copytree(NANO_DIRECTORY, tmp_path / "raises")
    (path / "chat_template.jinja").write_text("{{ raise_exception('\x1b[2J\u202e no [red]') }}")
    result = spiral("evaluate", str(path), "--game", "tictactoe", "--opponent", "random", "--episodes", "2")
    assert result.status in (1, 2)
    assert r"\u001b[2J\u202e no [red]" in harmless(result.err)
    assert explain(ValueError(HOSTILE)) == (2, SHOWN)
    assert explain(OSError(5, "I/O", "\x1b[2J")) == (1, r"\u001b[2J: I/O")


def test_a_traceback_for_debugging(monkeypatch):
    monkeypatch.setenv("SPIRAL_DEBUG", "1")
    result = spiral("train", f"{HOSTILE}.toml")
    assert "Traceback" in harmless(result.err)


def test_warnings(capsys):
    with log_to_stderr():
        logging.getLogger("spiral.any").warning("first %s\nsecond %s", HOSTILE, HOSTILE)
    assert capsys.readouterr().err == f"warning: first {SHOWN}\n  second {SHOWN}\n"


def test_names_of_models(tmp_path, monkeypatch):
    home = tmp_path / "x\x1b[2J\u202e[red]"
    monkeypatch.setenv("SPIRAL_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "600")
    shutil.copytree(NANO_DIRECTORY, home / "models" / "mine")
    assert r"x\u001b[2J\u202e[red]/models/mine" in harmless(spiral("models").out)
    assert str(home / "models" / "mine") in [row["path"] for row in spiral("models", "--json").json["models"]]


def test_the_status_of_a_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "900")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text("[cluster]\nrollout_workers = 1\n")
    worker = {
        "number": 0, "pid": 1, "host": HOSTILE, "doing": f"playing {HOSTILE}", "version": HOSTILE, "games": 1,
        "tokens": 1, "play_seconds": 1.0, "load_seconds": 0.5,
    }  # fmt: skip
    status = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(), "driver": {"pid": os.getpid(), "host": HOSTILE},
        "state": HOSTILE, "version": 3, "steps": 10, "schedule": HOSTILE, "workers": 1, "learners": [HOSTILE],
        "rollout_workers": [worker], "metrics": {},
    }  # fmt: skip
    (run / "cluster.json").write_text(json.dumps(status))
    result = spiral("cluster", "status", str(run))
    assert (result.status, result.err) == (0, "")
    assert harmless(result.out).count("PWNED") >= 6
    assert socket.gethostname() not in result.out


def test_a_recipe_as_toml_reads_back_as_it_was(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text('summary = "a \\u001b[2J \\u202e b"\n[model]\npath = "nano"\n', encoding="utf-8")
    result = spiral("train", str(file), "--dry-run")
    assert result.status == 0
    harmless(result.out)
    (tmp_path / "again.toml").write_text(result.out, encoding="utf-8")
    assert spiral("train", str(tmp_path / "again.toml"), "--dry-run").out == result.out


def test_what_a_run_keeps_is_not_changed(tmp_path, monkeypatch):
    use_policy(monkeypatch, Talker)
    out = tmp_path / "results"
    spiral("evaluate", "x", "--game", "tictactoe", "--opponent", "random", "--episodes", "2", "--out", str(out))
    (file,) = out.glob("*/result.json")
    assert json.loads(file.read_text(encoding="utf-8"))["result"]["policy"] == Talker.name


def run(*arguments, **environment):
    """A command line in a process of its own, with other encodings of its output."""
    command = [sys.executable, "-m", "spiral", *arguments]
    return subprocess.run(
        command, capture_output=True, check=False, env={**os.environ, "COLUMNS": "300", **environment}, timeout=120
    )


@pytest.mark.slow
def test_a_locale_that_does_not_know_a_letter_loses_no_result(tmp_path):
    name = str(tmp_path / "mod\u00e8le \u4e2d")
    shutil.copytree(NANO_DIRECTORY, name)
    arguments = ("exploitability", name, "--game", "kuhn_poker", "--out", str(tmp_path / "kept"))
    done = run(*arguments, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"mod\xe8le \u4e2d in kuhn_poker: exploitability 0." in done.stdout
    assert b"NashConv" in done.stdout


def test_a_closed_pipe_is_reported():
    error = SystemExit(1)
    error.__context__ = BrokenPipeError(32, "Broken pipe")
    assert explain(error) == (1, "standard output was closed before the command was done")
