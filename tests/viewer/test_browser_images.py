"""The pictures of the page in the docs.

`SPIRAL_UPDATE_DOCS=1 pytest -m slow tests/viewer/test_browser_images.py` makes them anew from a run that it trains, or
from that which SPIRAL_PICTURED_RUN names; without it, the test says whether the docs have every picture.
"""

import os
from pathlib import Path

import pytest

from browser import Page, launched, viewing
from commands import tiny_run

pytestmark = pytest.mark.slow

IMAGES = Path(__file__).parents[2] / "docs/images"
PICTURES = {
    "view-overview": ("?smooth=0.5", {}),
    "view-replay": (None, {}),
    "view-evaluation": ("evaluation", {"height": 1000}),
}
MAX_BYTES = 150_000


def test_docs_have_the_pictures():
    sizes = {name: (IMAGES / f"{name}.png").stat().st_size for name in PICTURES}
    assert {name for name, size in sizes.items() if not 5_000 < size < MAX_BYTES} == set()


@pytest.mark.skipif(not os.environ.get("SPIRAL_UPDATE_DOCS"), reason="only with SPIRAL_UPDATE_DOCS=1")
def test_make_the_pictures(tmp_path):
    given = os.environ.get("SPIRAL_PICTURED_RUN")
    run = Path(given) if given else train(tmp_path / "nano")
    IMAGES.mkdir(exist_ok=True)
    with launched() as browser, viewing(run) as address:
        take_pictures(browser, address)
    assert {path.stem for path in IMAGES.glob("view-*.png")} == set(PICTURES)


def train(run):
    result = tiny_run(
        run,
        run__steps="40",
        run__checkpoint_every="20",
        run__episodes_every="10",
        selfplay__games="{tictactoe = 1, kuhn_poker = 2}",
        selfplay__opening_plies="{tictactoe = 2}",
        selfplay__episodes_per_step="96",
        evaluation__games="['tictactoe', 'kuhn_poker']",
        evaluation__opponents="['random', 'minimax']",
        evaluation__episodes="200",
        evaluation__every="5",
    )
    assert result.status == 0, result.err
    return run


def take_pictures(browser, address):
    for name, (place, options) in PICTURES.items():
        view = Page(browser, address, viewport={"width": 1200, "height": 800} | options)
        page = view.open(place or worst_game(view))
        page.wait_for_timeout(1000)
        page.screenshot(path=IMAGES / f"{name}.png")
        quantise(IMAGES / f"{name}.png")
        view.close()


def worst_game(view):
    """A long game of tic-tac-toe with a mistake, at that move."""
    view.open("games")
    found = view.page.evaluate(
        """async () => {
            const query = "game=tictactoe&outcome=finished&sort=turns&desc=1&limit=20";
            const list = await (await fetch(`/api/runs/0/episodes?${query}`)).json();
            for (const row of list.rows) {
                const game = await (await fetch(`/api/runs/0/episodes/${row.step}/${row.episode}`)).json();
                const lost = game.blunder > 1 ? game.turns[game.blunder].judgement.regret : 0;
                if (lost > 1) return [row.step, row.episode, game.blunder];
            }
            return [list.rows[0].step, list.rows[0].episode, 1];
        }"""
    )
    return "game/0/" + "/".join(map(str, found))


def quantise(path):
    """Fewer colours, a third of the bytes."""
    from PIL import Image

    Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(path, optimize=True)
