"""The HTTP routes that the page calls, and the page.

Everything under `/api` is JSON, except an episode as text and the events of a run. Numbers that are not known are null;
text is as it is in the run, and the page shows it as text only. An error is `{"error": one sentence}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from spiral.runs.league import LEAGUE, league_runs
from spiral.runs.population import POPULATION, responses
from spiral.viewer.access import AccessCheck
from spiral.viewer.benchmarks import ItemFilters
from spiral.viewer.episodes import EpisodeTable, Filters
from spiral.viewer.evaluations import Evaluations
from spiral.viewer.replay import Replay
from spiral.viewer.responses import Json, error_response
from spiral.viewer.run import ViewedRun, differing_settings, notice
from spiral.viewer.sessions import Request as PlayRequest
from spiral.viewer.sessions import Sessions, TooManyGamesError

ASSETS = Path(__file__).parent / "assets"
LOOK_SECONDS = 1.0
"""How often a followed run is looked at."""
BEAT_SECONDS = 15.0
"""An event stream without news says so this often, so that a closed page is noticed."""


def runs_at(path: Path) -> list[tuple[Path, Path | None]]:
    """The run in a directory, those of a league, or of a population, each of these with the population's directory."""
    if (path / "config.toml").exists():
        return [(path, None)]
    if (path / LEAGUE).is_file():
        return [(run, None) for run in league_runs(path)]
    return [(run, path) for run in responses(path)] if (path / POPULATION).is_file() else [(path, None)]


class Viewer:
    """The runs of one page, and what is kept of them in memory."""

    def __init__(self, paths: Sequence[Path], *, own_games: bool = False) -> None:
        """`paths` are run directories, and directories of populations and leagues, whose runs are shown."""
        runs = [(run, population) for path in paths for run, population in runs_at(path)]
        self.runs = [ViewedRun(number, path, population) for number, (path, population) in enumerate(runs)]
        self.tables = {run.id: EpisodeTable(run) for run in self.runs}
        self.replays = {run.id: Replay(run, own_games=own_games) for run in self.runs}
        self.evaluations = {run.id: Evaluations(run) for run in self.runs}
        self.sessions = Sessions(
            {run.id: run for run in self.runs},
            lambda run, spec: self.replays[run].game(spec),
            own_games=own_games,
        )

    def run(self, name: str) -> ViewedRun:
        """A run by its id. Raises `LookupError` where there is none."""
        for run in self.runs:
            if run.id == name:
                return run
        raise LookupError(f"there is no run {name[:80]!r} here")

    def close(self) -> None:
        """Frees what the tables hold, and ends the games."""
        self.sessions.close()
        for table in self.tables.values():
            table.close()


def make_app(viewer: Viewer, *, token: str, host: str = "127.0.0.1", watched: Callable[[], bool] = lambda: True) -> Any:
    """The application behind its access check.

    Args:
        viewer: The runs.
        token: What a request must have.
        host: The address that the server listens on.
        watched: Whether event streams go on; they end when the server does.
    """

    @contextlib.asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        yield
        viewer.close()

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=life, default_response_class=Json)
    _add_errors(app)
    _add_runs(app, viewer, watched)
    _add_episodes(app, viewer)
    _add_evaluations(app, viewer)
    _add_play(app, viewer.sessions)
    _add_page(app)
    return AccessCheck(app, token=token, host=host)


def _add_runs(app: FastAPI, viewer: Viewer, watched: Callable[[], bool]) -> None:
    @app.get("/api/runs")
    def runs() -> Json:
        return Json({"runs": [run.summary() for run in viewer.runs]})

    @app.get("/api/runs/{name}/config")
    def config(name: str) -> Json:
        return Json({"settings": viewer.run(name).settings()})

    @app.get("/api/config-diff")
    def config_diff() -> Json:
        return Json({"rows": differing_settings(viewer.runs)})

    @app.get("/api/runs/{name}/metrics")
    def metrics(name: str, since: int = -1) -> Json:
        return Json(viewer.run(name).metrics_since(since))

    @app.get("/api/runs/{name}/health")
    def health(name: str) -> Json:
        run = viewer.run(name)
        return Json({"lights": run.health(), "guards": run.guards()})

    @app.get("/api/events")
    async def events(request: Request) -> StreamingResponse:
        # One stream for all runs: a browser opens six connections to a host at most.
        news = _events([(run, viewer.tables[run.id]) for run in viewer.runs], request, watched)
        return StreamingResponse(news, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _events(
    runs: Sequence[tuple[ViewedRun, EpisodeTable]], request: Request, watched: Callable[[], bool]
) -> AsyncIterator[str]:
    """One event a run at first and one whenever its metrics, episodes or results have grown."""

    def look(run: ViewedRun, table: EpisodeTable) -> tuple[int, tuple[int, int], bool, int]:
        steps = run.metrics().steps
        return (steps[-1] if steps else 0), table.newest(), table.complete, run.results()

    seen: dict[str, tuple[int, tuple[int, int], bool, int]] = {}
    quiet = 0.0
    while watched() and not await request.is_disconnected():
        for run, table in runs:
            now = await asyncio.to_thread(look, run, table)
            if now != seen.get(run.id):
                seen[run.id], quiet = now, 0.0
                event = json.dumps({"run": run.id, "step": max(now[0], now[1][0])})
                yield f"data: {event}\n\n"
        if quiet >= BEAT_SECONDS:
            quiet = 0.0
            yield ": nothing new\n\n"
        await asyncio.sleep(LOOK_SECONDS)
        quiet += LOOK_SECONDS


def _add_episodes(app: FastAPI, viewer: Viewer) -> None:
    @app.get("/api/runs/{name}/episodes")
    def episodes(
        name: str,
        game: str | None = None,
        opponent: str | None = None,
        outcome: str | None = None,
        illegal: bool | None = None,
        player: int | None = None,
        result: Literal["win", "draw", "loss"] | None = None,
        step_min: int | None = None,
        step_max: int | None = None,
        turns_min: int | None = None,
        tokens_min: int | None = None,
        q: str | None = None,
        sort: str = "step",
        desc: bool = False,
        offset: int = 0,
        limit: int = 50,
    ) -> Json:
        filters = Filters(
            game=game or None,
            opponent=opponent or None,
            outcome=outcome or None,
            illegal=illegal,
            player=player,
            result=result,
            step_min=step_min,
            step_max=step_max,
            turns_min=turns_min,
            tokens_min=tokens_min,
            q=q or None,
            sort=sort,
            desc=desc,
            offset=offset,
            limit=limit,
        )
        viewer.run(name)
        return Json(viewer.tables[name].page(filters))

    @app.get("/api/runs/{name}/episodes/{step}/{episode}")
    def episode(name: str, step: int, episode: int) -> Json:
        viewer.run(name)
        return Json(viewer.replays[name].episode(viewer.tables[name].path(step), step, episode))

    @app.get("/api/runs/{name}/episodes/{step}/{episode}/judgements")
    def episode_judgements(name: str, step: int, episode: int) -> Json:
        viewer.run(name)
        return Json(viewer.replays[name].judgements(viewer.tables[name].path(step), step, episode))

    @app.get("/api/runs/{name}/episodes/{step}/{episode}/text")
    def episode_text(name: str, step: int, episode: int) -> Response:
        viewer.run(name)
        text = viewer.replays[name].text(viewer.tables[name].path(step), step, episode)
        return PlainTextResponse(text.encode("utf-8", "replace"))


def _add_evaluations(app: FastAPI, viewer: Viewer) -> None:
    @app.get("/api/runs/{name}/evaluation")
    def evaluation(name: str) -> Json:
        viewer.run(name)
        return Json(viewer.evaluations[name].summary())

    @app.get("/api/runs/{name}/evaluation/items")
    def items(
        name: str,
        task: str | None = None,
        step: int | None = None,
        correct: bool | None = None,
        change: Literal["changed", "learned", "lost"] | None = None,
        q: str | None = None,
        offset: int = 0,
        limit: int = 50,
    ) -> Json:
        viewer.run(name)
        filters = ItemFilters(
            task=task or None,
            step=step,
            correct=correct,
            change=change,
            q=q or None,
            offset=offset,
            limit=limit,
        )
        return Json(viewer.evaluations[name].items(filters))


class Wanted(BaseModel):
    """A game that the page asks for, as `sessions.Request`."""

    run: str
    step: int
    game: str
    seat: int = 0
    seed: int | None = None
    thinking: bool | None = None


class Move(BaseModel):
    """A move that a person made."""

    text: str


def _add_play(app: FastAPI, sessions: Sessions) -> None:
    @app.get("/api/play/choices")
    def choices() -> Json:
        return Json(sessions.choices())

    @app.post("/api/play")
    def begin(wanted: Wanted) -> Json:
        try:
            return Json({"session": sessions.begin(PlayRequest(**wanted.model_dump()))})
        except TooManyGamesError as error:
            return error_response(429, str(error))

    @app.get("/api/play/{session}")
    def view(session: str) -> Json:
        return Json(sessions.view(session))

    @app.post("/api/play/{session}/move")
    def move(session: str, made: Move) -> Json:
        return Json(sessions.move(session, made.text))

    @app.delete("/api/play/{session}")
    def end(session: str) -> Json:
        sessions.end(session)
        return Json({"ended": session})


def _add_page(app: FastAPI) -> None:
    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(ASSETS / "index.html", media_type="text/html; charset=utf-8")

    app.mount("/assets", StaticFiles(directory=ASSETS, check_dir=False), name="assets")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> Json:
        first: Mapping[str, Any] = next(iter(error.errors()), {})
        name = ".".join(map(str, first.get("loc", ())[1:])) or "the request"
        reason = first.get("msg", "it is not valid")
        return error_response(400, notice(f"got {first.get('input')!r} for {name}: {reason}"))

    @app.exception_handler(HTTPException)
    def refused(_request: Request, error: HTTPException) -> Json:
        text = "there is nothing at this address" if error.status_code == 404 else str(error.detail)
        return error_response(error.status_code, text)

    @app.exception_handler(LookupError)
    def missing(_request: Request, error: LookupError) -> Json:
        return error_response(404, notice(str(error.args[0] if error.args else error)))

    @app.exception_handler(ValueError)
    def wrong(_request: Request, error: ValueError) -> Json:
        return error_response(400, notice(str(error)))

    @app.exception_handler(OSError)
    def unreadable(_request: Request, error: OSError) -> Json:
        return error_response(404, notice(f"a file of the run cannot be read any more: {error.strerror or error}"))
