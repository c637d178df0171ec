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


LONG = (
    "journeys/",
    "test_processes.py",
    "federation_transport/test_transport.py",
    "local/test_stack.py",
    "test_antenna.py",
)
"""Files that wait for processes, minutes each: begun first, so that the last worker is not left alone with one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; workers take files in this order (`--no-loadscope-reorder`)."""
    items.sort(key=lambda item: not any(part in item.nodeid for part in LONG))


def pytest_report_header() -> str:
    """Say where broker and database come from; the fixture decides at its first use."""
    return "broker and database: the environment, containers or the local stack, in this order"
