"""The pool of connections to a service's own database."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

if TYPE_CHECKING:
    Database: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Transaction: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:  # at run time these classes take no parameters
    Database = asyncpg.Pool
    Transaction = asyncpg.Connection | PoolConnectionProxy
Row: TypeAlias = asyncpg.Record

log = logging.getLogger(__name__)
CLOSE_SECONDS = 3
RETRY_SECONDS = 0.5

CONNECTION_FAULTS: tuple[type[Exception], ...] = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    OSError,
    TimeoutError,
)
"""What is wrong with the connection or the moment, not with the request: the same words may work later."""


async def _prepare(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)


async def _leave_as_it_is(_: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Nothing to undo when a connection goes back: an open transaction is rolled back before this is asked, and nobody
    sets, listens or locks beyond a transaction on a connection of the pool. It saves each request one question.
    """


async def connect(url: str, *, connections: int = 8) -> Database:
    """Open the pool. Raises what asyncpg raises when the server cannot be reached or refuses."""
    return await asyncpg.create_pool(
        url,
        min_size=1,
        max_size=connections,
        init=_prepare,
        reset=_leave_as_it_is,
        command_timeout=120,
        server_settings={"timezone": "UTC", "idle_in_transaction_session_timeout": "120s"},
    )


class Opening:
    """Opens a pool: at once, or in the background if the server does not answer yet; `waits_for` says why not.

    A process that waits must answer its probes and stop when told to.
    """

    def __init__(self, url: str, connections: int) -> None:
        self._url = url
        self._connections = connections
        self.waits_for: str | None = None

    @asynccontextmanager
    async def pool(self, use: Callable[[Database], None]) -> AsyncIterator[None]:
        """Tell `use` the pool as soon as there is one. Raises what the server refuses when it answers at once."""
        pools: list[Database] = []

        async def open_it() -> None:
            db = await connect(self._url, connections=self._connections)
            self.waits_for = None
            pools.append(db)
            use(db)

        waiting: asyncio.Task[None] | None = None
        try:
            await open_it()
        except CONNECTION_FAULTS as fault:
            self._say(fault)
            waiting = asyncio.create_task(self._later(open_it))
        try:
            yield
        finally:
            if waiting is not None:
                waiting.cancel()
                await asyncio.wait([waiting])
            for db in pools:
                await close(db)

    async def _later(self, open_it: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                return await open_it()
            except CONNECTION_FAULTS as fault:
                self._say(fault)
            except (asyncpg.PostgresError, asyncpg.InterfaceError) as fault:
                self._say(fault)

    def _say(self, fault: Exception) -> None:
        words = " ".join(str(fault).split()) or type(fault).__name__
        if words != self.waits_for:
            log.warning("waiting for the database: %s", words)
        self.waits_for = words


async def close(db: Database) -> None:
    """Close a pool, by force if somebody still holds a connection."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await db.close()
    except TimeoutError:
        db.terminate()


@asynccontextmanager
async def transaction(db: Database) -> AsyncIterator[Transaction]:
    """One transaction on one connection of the pool: committed at the end, rolled back on any error."""
    async with db.acquire() as connection:
        with _losses_named(connection):
            async with connection.transaction():
                yield connection


@asynccontextmanager
async def reading(db: Database) -> AsyncIterator[Transaction]:
    """One connection of the pool without a transaction: for plain reads."""
    async with db.acquire() as connection:
        with _losses_named(connection):
            yield connection


def _is_gone(connection: Transaction) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has taken a broken connection back already
        return True


@contextmanager
def _losses_named(connection: Transaction) -> Iterator[None]:
    try:
        yield
    except asyncpg.InterfaceError as fault:
        # The client words a lost connection like a misuse of its own interface; only the first may be retried.
        if _is_gone(connection):
            raise ConnectionResetError("the connection to the database was lost") from fault
        raise
