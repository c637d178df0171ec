"""One factory in containers for all these tests; without an engine or an image they are skipped, and say why."""

from collections.abc import AsyncIterator, Callable

import pytest
from aifn_common import clock

from benchmarks.figures import Figure, compare, keep
from tests.containers.world import World, needed_images, running_world
from tests.support import engine

FIGURES = pytest.StashKey[list[Figure]]()
Told = Callable[[str, float, float], None]
"""Takes what was measured, its seconds, and the seconds that operators are promised."""


def pytest_configure(config: pytest.Config) -> None:
    """A place for what was measured."""
    config.stash[FIGURES] = []


@pytest.fixture(scope="session")
def images() -> None:
    """Skip what cannot run here. Where that must not happen (AIFN_CONTAINERS=required), fail."""
    reason = why_not()
    if reason is None:
        return
    if engine.required():
        pytest.fail(reason)
    pytest.skip(reason)


def why_not() -> str | None:
    """Why containers cannot be tested here; None if they can."""
    if not engine.engine_answers():
        return "no Docker engine answers here"
    missing = engine.missing_images(needed_images())
    return f"no image {', '.join(missing)}: run `make images`, or set AIFN_TEST_PULL=1" if missing else None


@pytest.fixture(scope="session")
async def world(images: None) -> AsyncIterator[World]:
    """A factory whose every container is ready."""
    async with running_world() as made:
        yield made


@pytest.fixture
async def told_time(world: World) -> World:
    """The factory, with this process keeping its time."""
    clock.use(world.factory.clock)
    return world


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Told:
    """Keeps what was measured, to be printed and written at the end; it is never judged."""

    def tell(what: str, seconds: float, target: float) -> None:
        request.config.stash[FIGURES].append(compare(what, seconds, "s", "target", target))

    return tell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print them, and write build/bench/containers.json as the benchmarks write theirs."""
    figures = config.stash[FIGURES]
    for one in figures:
        terminalreporter.write_line(f"{one.figure}: {one.value:.1f} s (target {one.reference_value:g} s)")
    if figures:
        keep("containers", figures)
