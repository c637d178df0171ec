"""Rebuilds the books in an empty database and says whether they are the same."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256

from aifn_common import event_log
from aifn_common.database import CONNECTION_FAULTS, Database, Transaction, close, connect
from aifn_common.errors import Refusal
from aifn_common.migrations import migrate

from aifn_accounting.app import service
from aifn_accounting.rebuild.repeat import Diverged, Repeater
from aifn_accounting.rebuild.shuffled import Shuffled
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import books as store

Say = Callable[[str], None]
_SHOWN = 300


class WrongAddress(Refusal):
    """A server answered, and will not open this database."""

    code = "wrong_address"


class NotEmpty(Refusal):
    """The database to rebuild in has something in it already."""

    code = "not_empty"


async def rebuild(settings: AccountingSettings, into: str, *, shuffle: int | None, say: Say) -> bool:
    """Carry the event log out again in an empty database, compare, and say in a line what came of it.

    All is read as it is at one moment, while the service may go on. The empty database is left with what was rebuilt.

    Args:
        into: the address of the empty database.
        shuffle: then once more in another order, made from this number; None: not.
    Returns: whether everything was the same.
    Raises: NotEmpty, WrongAddress, and CONNECTION_FAULTS when a database cannot be reached.
    """
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(_at_one_moment(settings))
        target = await stack.enter_async_context(_opened(into))
        async with target.acquire() as here:
            if await store.exists(here, "schema_migration"):
                raise NotEmpty("the database to rebuild in is not empty: make a new one")
        refused: set[int] = set()
        same = await _in_order(settings, source, target, refused, say)
        if shuffle is None:
            return same
        await _empty(target)
        return await _shuffled(settings, source, target, refused, shuffle, say) and same


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Database]:
    try:
        db = await connect(url, connections=4)
    except CONNECTION_FAULTS:
        raise
    except Exception as wrong:
        raise WrongAddress(f"the database cannot be opened: {wrong}") from wrong
    try:
        yield db
    finally:
        await close(db)


@asynccontextmanager
async def _at_one_moment(settings: AccountingSettings) -> AsyncIterator[Transaction]:
    """A connection to accounting's own database that sees one moment, for as long as it takes."""
    async with (
        _opened(settings.database_url.get_secret_value()) as db,
        db.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        yield connection


async def _in_order(
    settings: AccountingSettings, source: Transaction, target: Database, refused: set[int], say: Say
) -> bool:
    await migrate(target, *service.packages)
    repeater = Repeater(target, settings, source)
    entries = messages = 0
    try:
        async for entry in event_log.read(source):
            refused.update(await repeater.carry_out(entry))
            entries += 1
            messages += len(entry.messages)
    except (Diverged, Refusal) as wrong:
        say(f"in order: DIFFERENT after {entries} transactions: {wrong}")
        return False
    digests, differing = await _compare(source, target, store.BOOKS)
    what = f"{entries} transactions, {messages} messages, {len(store.BOOKS)} tables"
    if differing:
        say(f"in order: DIFFERENT ({what}): {'; '.join(differing)}")
        return False
    say(f"in order: identical bytes ({what}), sha256 {digests}")
    return True


async def _shuffled(
    settings: AccountingSettings, source: Transaction, target: Database, refused: set[int], seed: int, say: Say
) -> bool:
    await migrate(target, *service.packages)
    shuffled = Shuffled(Repeater(target, settings, source), refused, seed)
    try:
        async for entry in event_log.read(source):
            await shuffled.take(entry)
        await shuffled.flush()
    except (Diverged, Refusal) as wrong:
        say(f"shuffled by {seed}: DIFFERENT: {wrong}")
        return False
    _, differing = await _compare(source, target, store.BALANCES)
    what = f"{shuffled.messages} messages in {shuffled.stretches} stretches, {shuffled.copies} heard twice"
    if differing:
        say(f"shuffled by {seed}: DIFFERENT ({what}): {'; '.join(differing)}")
        return False
    say(f"shuffled by {seed}: identical balances ({what})")
    return True


async def _compare(source: Transaction, target: Database, queries: Mapping[str, str]) -> tuple[str, list[str]]:
    """One digest over all, and of each table that differs its name and the first rows that do."""
    whole, differing = sha256(), []
    async with target.acquire() as here, here.transaction():
        for name, query in queries.items():
            found = await store.digest(source, query)
            whole.update(found.encode())
            if found != await store.digest(here, query):
                differing.append(f"{name}: {await _first_difference(source, here, query)}")
    return whole.hexdigest(), differing


async def _first_difference(source: Transaction, here: Transaction, query: str) -> str:
    ours, theirs = store.lines(source, query), store.lines(here, query)
    while True:
        one, other = await anext(ours, None), await anext(theirs, None)
        if one != other:
            return f"in the books {_short(one)}, rebuilt {_short(other)}"
        if one is None:
            return "they differ in how their rows are ordered"


def _short(line: str | None) -> str:
    return "nothing" if line is None else line[:_SHOWN]


async def _empty(db: Database) -> None:
    async with db.acquire() as connection:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await db.expire_connections()
