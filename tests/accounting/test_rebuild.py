"""The books can be made anew from the event log: the same bytes in its order, the same balances in another."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from aifn_accounting.rebuild import command
from aifn_accounting.rebuild.books import rebuild
from aifn_accounting.settings import AccountingSettings
from aifn_common.database import Database, connect, transaction
from pydantic import SecretStr

from tests.accounting.make import broken_checks
from tests.accounting.make_story import live
from tests.support.backends import Backends


@dataclass
class Books:
    """Accounting's database with a life in it, and an address where another may be made."""

    db: Database
    settings: AccountingSettings
    backends: Backends

    async def rebuild(self, shuffle: int | None = None) -> tuple[bool, list[str]]:
        """Whether all was the same, and the lines that say so."""
        name = f"test_{secrets.token_hex(6)}"
        await self.backends.execute(f'CREATE DATABASE "{name}"')
        said: list[str] = []
        try:
            same = await rebuild(self.settings, self.backends.url(name), shuffle=shuffle, say=said.append)
        finally:
            await self.backends.drop(self.backends.url(name))
        return same, said


@pytest.fixture
async def books(backends: Backends, settings: AccountingSettings) -> AsyncIterator[Books]:
    """Books with nothing in them."""
    url = await backends.new_database("aifn_accounting")
    strict = {"database_url": SecretStr(url), "second_person_above": {"node-hour": 10}}
    db = await connect(url, connections=20)
    yield Books(db, settings.model_copy(update=strict), backends)
    db.terminate()
    await backends.drop(url)


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_log_carried_out_again_gives_the_same_bytes_and_shuffled_the_same_balances(
    books: Books, seed: int
) -> None:
    await live(books.db, books.settings, seed)
    assert await broken_checks(books.db) == []
    same, said = await books.rebuild(shuffle=seed)
    assert same, said
    assert [line.split(" (")[0] for line in said] == [
        "in order: identical bytes",
        f"shuffled by {seed}: identical balances",
    ]


async def test_books_that_were_touched_are_told_from_those_that_are_rebuilt_by_the_row(books: Books) -> None:
    await live(books.db, books.settings, 4)
    async with transaction(books.db) as tx:
        await tx.execute("SET LOCAL session_replication_role = replica")
        await tx.execute("UPDATE usage_record SET charged = charged + 1 WHERE number = 3")
        await tx.execute(
            "DELETE FROM ledger_transfer WHERE id = (SELECT max(id) FROM ledger_transfer WHERE kind = 'charge')"
        )
    same, (line,) = await books.rebuild()
    assert not same
    assert line.startswith("in order: DIFFERENT")
    assert "usage_record: in the books (3," in line
    assert "ledger_transfer: in the books" in line
    assert "allocation:" not in line


async def test_a_log_from_which_a_message_is_missing_is_told(books: Books) -> None:
    await live(books.db, books.settings, 5)
    async with transaction(books.db) as tx:
        await tx.execute("SET LOCAL session_replication_role = replica")
        await tx.execute("DELETE FROM event_log WHERE first = (SELECT max(first) FROM event_log WHERE kind = 'heard')")
    same, (line,) = await books.rebuild()
    assert not same
    assert line.startswith("in order: DIFFERENT")


async def test_the_command_says_in_a_line_why_it_cannot_rebuild(
    books: Books, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = books.settings.database_url.get_secret_value()
    assert await command._run(own, None) == 1
    assert "AIFN_FACTORY is not set" in capsys.readouterr().err
    said = {"DATABASE_URL": own, "PSEUDONYM_KEY": "a-key-for-tests-only"}
    for name, value in {"FACTORY": "lumi-aif", "KAFKA": "127.0.0.1:1", "OIDC_ISSUER": "http://x.test", **said}.items():
        monkeypatch.setenv(f"AIFN_{name}", value)
    assert await command._run(own, None) == 1
    assert "the database to rebuild in is not empty" in capsys.readouterr().err
    assert await command._run(books.backends.url("test_missing"), None) == 1
    assert "the database cannot be opened" in capsys.readouterr().err
    assert await command._run("postgresql://nobody@127.0.0.1:1/none", None) == command.NOT_REACHED
