"""Applies numbered SQL files, once each, in order; forward only.

Each package has its own sequence. A file that was applied is never edited: its checksum is kept and compared.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

from aifn_common.database import Database, Transaction, transaction

_LOCK = 0x61_69_66_6E  # "aifn": one migration at a time in a database
_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migration (
    package    text NOT NULL,
    number     int NOT NULL,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (package, number)
)"""


class MigrationError(Exception):
    """The database and the files do not belong together; the message says which file and why."""


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
    return found


async def migrate(db: Database, *packages: str) -> list[str]:
    """Apply what is missing, package by package, under a lock. Returns the names of the files applied."""
    applied: list[str] = []
    async with transaction(db) as tx:
        await tx.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await tx.execute(_TABLE)
        for package in packages:
            applied += await _apply(tx, package)
    return applied


async def _apply(tx: Transaction, package: str) -> list[str]:
    rows = await tx.fetch("SELECT number, name, checksum FROM schema_migration WHERE package = $1", package)
    known = {row["number"]: row for row in rows}
    wanted = migrations_of(package)
    _refuse_mismatch(package, known.keys() - {one.number for one in wanted})
    applied = []
    for one in wanted:
        if one.number in known:
            if known[one.number]["checksum"] != one.checksum:
                raise MigrationError(f"{package}: {one.name} was changed after it had been applied")
            continue
        await tx.execute(one.sql)
        await tx.execute(
            "INSERT INTO schema_migration (package, number, name, checksum) VALUES ($1, $2, $3, $4)",
            package,
            one.number,
            one.name,
            one.checksum,
        )
        applied.append(f"{package}/{one.name}")
    return applied


def _refuse_mismatch(package: str, newer: set[int]) -> None:
    if newer:
        raise MigrationError(f"{package}: the database is newer than this program (it has migration {max(newer)})")


async def is_current(db: Database, *packages: str) -> bool:
    """Whether every migration of the packages has been applied, and none that is unknown here."""
    if await db.fetchval("SELECT to_regclass('schema_migration')") is None:
        return False
    for package in packages:
        numbers = {one.number for one in migrations_of(package)}
        rows = await db.fetch("SELECT number FROM schema_migration WHERE package = $1", package)
        if {row["number"] for row in rows} != numbers:
            return False
    return True
