"""A browser for the tests of a module, and a real run: the built-in model after a few steps."""

import pytest

from browser import Page, launched, viewing
from commands import tiny_run


@pytest.fixture(scope="module")
def browser():
    with launched() as one:
        yield one


@pytest.fixture(scope="module")
def trained(browser, tmp_path_factory):
    """A run of six steps, with games of both kinds, evaluations and checkpoints."""
    path = tmp_path_factory.mktemp("runs") / "first"
    result = tiny_run(
        path,
        run__steps="6",
        run__checkpoint_every="3",
        selfplay__games="{tictactoe = 1, kuhn_poker = 1}",
        selfplay__episodes_per_step="16",
        evaluation__games="['tictactoe', 'kuhn_poker']",
        evaluation__opponents="['random', 'minimax']",
        evaluation__episodes="20",
        evaluation__every="2",
    )
    assert result.status == 0, result.err
    return path


@pytest.fixture(scope="module")
def address(trained):
    with viewing(trained) as one:
        yield one


@pytest.fixture
def view(browser, address):
    page = Page(browser, address)
    yield page
    page.close()
    assert page.faults == []
