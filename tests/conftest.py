"""One broker and one database server for a whole run, from wherever they come."""

from collections.abc import Iterator

import pytest
from aifn_common import clock

from tests.support.backends import Backends, provide
from tests.support.kafka import empty_topics


@pytest.fixture(scope="session")
def backends() -> Iterator[Backends]:
    """A real PostgreSQL and a real Kafka."""
    with provide() as found:
        yield found


@pytest.fixture
async def kafka(backends: Backends) -> str:
    """The real broker's address, with every topic of the catalogue there and empty."""
    await empty_topics(backends.kafka)
    return backends.kafka


@pytest.fixture(autouse=True)
def real_time() -> Iterator[None]:
    """Every test begins and ends with the real clock."""
    clock.use(None)
    yield
    clock.use(None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a real server, so that another version of PostgreSQL is tried with that alone."""
    for item in items:
        if isinstance(item, pytest.Function) and "backends" in item.fixturenames:
            item.add_marker(pytest.mark.database)


def pytest_report_header() -> str:
    """Say where broker and database come from; the fixture decides at its first use."""
    return "broker and database: the environment, containers or the local stack, in this order"
