"""Applies numbered SQL files, once each, in order; forward only. Says which programs a schema is for.

Each package has its own sequence. A file that was applied is never edited: its checksum is kept and compared. A file
that older programs can live with says so in its first lines, `-- works-with: 0004`: whoever knows the files up to 0004
may run on the schema that it makes. Without such a line only programs that know the file may. See decision 26.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from aifn_common.database import Database, Transaction, transaction

_LOCK = 0x61_69_66_6E  # "aifn": one migration at a time in a database
_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")
_WORKS_WITH = re.compile(r"^-- works-with: (\d{4})$", re.MULTILINE)
_WORDS_LIKE_IT = re.compile(r"^\s*--\s*works[- _]*with\b", re.MULTILINE | re.IGNORECASE)
LOCK_SECONDS = 10
"""So long a migration waits for a table that is in use; meanwhile everybody else waits behind it."""
LONGEST_SECONDS = 3600

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migration (
    package    text NOT NULL,
    number     int NOT NULL,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (package, number)
);
ALTER TABLE schema_migration ADD COLUMN IF NOT EXISTS works_with int"""
_APPLIED = """
SELECT number, name, checksum, works_with FROM schema_migration WHERE package = $1 ORDER BY number"""
_HAS_RANGE = """
SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('schema_migration') AND attname = 'works_with')"""
_NEWEST = """
SELECT package, max(number) AS newest,
       max(coalesce(works_with, number)) FILTER (WHERE number > known) AS oldest_program
FROM schema_migration JOIN unnest($1::text[], $2::int[]) AS program (package, known) USING (package)
GROUP BY package"""
_REMEMBER = """
INSERT INTO schema_migration (package, number, name, checksum, works_with) VALUES ($1, $2, $3, $4, $5)"""


class MigrationError(Exception):
    """The database and the files do not belong together; the message says which file and why."""


class MigrationBusy(Exception):
    """A table that a migration must change is in use for long; nothing was changed, and later it may work."""


@dataclass(frozen=True)
class Migration:
    """One file: its number in the package's sequence, its name and its statements."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the statements."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def works_with(self) -> int:
        """The number that a program must know at least to run on the schema that this file makes."""
        match = _WORKS_WITH.search(self.sql)
        return int(match[1]) if match else self.number


@dataclass(frozen=True)
class Fit:
    """How a program and a database fit: `problem` in words, None if they do; `final` if waiting cannot help."""

    problem: str | None = None
    final: bool = False


def migrations_of(package: str) -> list[Migration]:
    """The files of a package in order. Raises MigrationError if a number is missing, doubled or misnamed."""
    found: list[Migration] = []
    for entry in files(package).joinpath("migrations").iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _NAME.match(entry.name)
        if match is None:
            raise MigrationError(f"{package}: {entry.name} is not named like 0001_what_it_does.sql")
        found.append(Migration(int(match[1]), entry.name, entry.read_text()))
    found.sort(key=lambda one: one.number)
    if [one.number for one in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"{package}: numbers must run from 0001 without gaps: {[one.name for one in found]}")
    for one in found:
        said = len(_WORDS_LIKE_IT.findall(one.sql))
        if said > 1 or (said == 1 and not (_WORKS_WITH.search(one.sql) and 0 < one.works_with < one.number)):
            raise MigrationError(
                f"{package}: {one.name} needs one line like `-- works-with: 0004`, a number before its own"
            )
    return found


def newest_of(*packages: str) -> dict[str, int]:
    """The number of the newest file that this program knows, by package."""
    return {package: len(migrations_of(package)) for package in packages}


async def fit(db: Database, known: dict[str, int]) -> Fit:
    """Whether a program that knows files up to these numbers may run on this database now."""
    if await db.fetchval("SELECT to_regclass('schema_migration')") is None:
        return Fit("the database has no schema yet")
    if not await db.fetchval(_HAS_RANGE):
        return Fit("the schema is older than this program")
    rows = {row["package"]: row for row in await db.fetch(_NEWEST, list(known), list(known.values()))}
    for package, number in known.items():
        row = rows.get(package)
        newest = row["newest"] if row else 0
        if newest < number:
            return Fit(f"the schema of {package} is at {newest:04d} and this program needs {number:04d}")
        if row and row["oldest_program"] is not None and row["oldest_program"] > number:
            needed = f"needs a program that knows {row['oldest_program']:04d}, this one knows {number:04d}"
            return Fit(f"the schema of {package} is at {newest:04d} and {needed}", final=True)
    return Fit()


async def migrate(db: Database, *packages: str) -> list[str]:
    """Apply what is missing, package by package, under a lock, in one transaction.

    Returns: the names of the files applied.
    Raises: MigrationError, and nothing was changed; MigrationBusy, likewise.
    """
    applied: list[str] = []
    async with transaction(db) as tx:
        await tx.execute("SELECT pg_advisory_xact_lock($1)", _LOCK, timeout=LONGEST_SECONDS)
        await tx.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        await tx.execute(_TABLE)
        for package in packages:
            applied += await _apply(tx, package)
    return applied


async def _apply(tx: Transaction, package: str) -> list[str]:
    rows = await tx.fetch(_APPLIED, package)
    known = {row["number"]: row for row in rows}
    wanted = migrations_of(package)
    _refuse_newer(package, len(wanted), [row for row in rows if row["number"] > len(wanted)])
    applied = []
    for one in wanted:
        if one.number in known:
            if known[one.number]["checksum"] != one.checksum:
                raise MigrationError(f"{package}: {one.name} was changed after it had been applied")
            continue
        await _run(tx, package, one)
        await tx.execute(_REMEMBER, package, one.number, one.name, one.checksum, one.works_with)
        applied.append(f"{package}/{one.name}")
    return applied


async def _run(tx: Transaction, package: str, one: Migration) -> None:
    try:
        await tx.execute(one.sql, timeout=LONGEST_SECONDS)
    except asyncpg.LockNotAvailableError:
        raise MigrationBusy(
            f"{package}: {one.name} waited {LOCK_SECONDS} s for a table in use; nothing was changed, try again"
        ) from None
    except (asyncpg.PostgresConnectionError, asyncpg.InsufficientResourcesError, asyncpg.OperatorInterventionError):
        raise
    except asyncpg.PostgresError as wrong:
        raise MigrationError(f"{package}: {one.name} failed: {wrong}; nothing was changed") from wrong


def _refuse_newer(package: str, known: int, newer: Sequence["asyncpg.Record"]) -> None:
    """A database ahead of the program is as it should be while both are said to work together."""
    for row in newer:
        if (row["works_with"] or row["number"]) > known:
            newest = max(row["number"] for row in newer)
            raise MigrationError(f"{package}: the database is newer than this program (it has migration {newest})")


async def is_current(db: Database, *packages: str) -> bool:
    """Whether this program may run on this database."""
    return (await fit(db, newest_of(*packages))).problem is None
