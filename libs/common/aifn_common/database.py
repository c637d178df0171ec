"""The pool of connections to a service's own database."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
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


async def connect(url: str, *, connections: int = 8) -> Database:
    """Open the pool. Raises what asyncpg raises when the server cannot be reached or refuses."""
    return await asyncpg.create_pool(
        url,
        min_size=1,
        max_size=connections,
        init=_prepare,
        command_timeout=120,
        server_settings={"timezone": "UTC", "idle_in_transaction_session_timeout": "120s"},
    )


async def connect_patiently(url: str, *, connections: int = 8, pause_seconds: float = 0.5) -> Database:
    """Open the pool as soon as the server answers; a wrong password or name is raised at once."""
    while True:
        try:
            return await connect(url, connections=connections)
        except CONNECTION_FAULTS:
            await asyncio.sleep(pause_seconds)


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
