"""A database and the files that made it belong together, or nothing is touched."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aifn_common import migrations
from aifn_common.database import Database, connect, transaction
from aifn_common.migrations import MigrationBusy, MigrationError, fit, is_current, migrate, migrations_of, newest_of

from tests.support.backends import Backends


class Package:
    """A package with migrations, made for one test."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.folder = folder / name / "migrations"
        self.folder.mkdir(parents=True)
        (folder / name / "__init__.py").touch()

    def write(self, **files: str) -> None:
        for name, sql in files.items():
            (self.folder / f"{name.removeprefix('n')}.sql").write_text(sql)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Package:
    """An empty package that can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"pack_{abs(hash(request.node.name))}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    return Package(tmp_path, name)


@pytest.fixture
async def empty(backends: Backends) -> AsyncIterator[Database]:
    """A database in which nothing is."""
    await backends.execute("DROP DATABASE IF EXISTS migrated WITH (FORCE)")
    await backends.execute("CREATE DATABASE migrated")
    db = await connect(backends.url("migrated"), connections=4)
    yield db
    db.terminate()
    await backends.drop(backends.url("migrated"))


async def tables(db: Database) -> set[str]:
    rows = await db.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row["tablename"] for row in rows} - {"schema_migration"}


async def test_files_are_applied_in_order_and_once(empty: Database, package: Package) -> None:
    package.write(n0002_b="INSERT INTO a VALUES (2);", n0001_a="CREATE TABLE a (n int); INSERT INTO a VALUES (1);")
    assert not await is_current(empty, package.name)
    assert await migrate(empty, package.name) == [f"{package.name}/0001_a.sql", f"{package.name}/0002_b.sql"]
    assert await migrate(empty, package.name) == []
    assert [row["n"] for row in await empty.fetch("SELECT n FROM a")] == [1, 2]
    assert await is_current(empty, package.name)
    package.write(n0003_c="CREATE TABLE c ();")
    assert not await is_current(empty, package.name)


async def test_three_who_start_at_once_apply_each_file_once(empty: Database, package: Package) -> None:
    package.write(n0001_a="CREATE TABLE a (n int); SELECT pg_sleep(0.3); INSERT INTO a VALUES (1);")
    done = await asyncio.gather(*(migrate(empty, package.name) for _ in range(3)))
    assert sorted(map(len, done)) == [0, 0, 1]
    assert await empty.fetchval("SELECT count(*) FROM a") == 1


async def test_a_file_that_was_edited_after_it_had_been_applied_is_refused(empty: Database, package: Package) -> None:
    package.write(n0001_a="CREATE TABLE a ();")
    await migrate(empty, package.name)
    package.write(n0001_a="CREATE TABLE a (n int);", n0002_b="CREATE TABLE b ();")
    with pytest.raises(MigrationError, match=r"0001_a\.sql was changed"):
        await migrate(empty, package.name)
    assert await tables(empty) == {"a"}


async def test_a_database_newer_than_the_program_is_refused(empty: Database, package: Package) -> None:
    package.write(n0001_a="CREATE TABLE a ();", n0002_b="CREATE TABLE b ();")
    await migrate(empty, package.name)
    (package.folder / "0002_b.sql").unlink()
    with pytest.raises(MigrationError, match="newer than this program"):
        await migrate(empty, package.name)
    assert not await is_current(empty, package.name)


async def test_a_file_that_fails_leaves_nothing_of_the_whole_run(empty: Database, package: Package) -> None:
    package.write(n0001_a="CREATE TABLE a ();", n0002_b="CREATE TABLE b (); SELECT 1/0;")
    with pytest.raises(MigrationError, match=r"0002_b\.sql failed: division by zero; nothing was changed"):
        await migrate(empty, package.name)
    assert await tables(empty) == set()


async def test_an_expanding_step_leaves_the_program_before_it_at_work_and_a_contracting_one_does_not(
    empty: Database, package: Package
) -> None:
    """Three releases: 0001, then 0002 which 0001 can live with, then 0003 which only 0002 can live with."""
    files = {
        "n0001_job": "CREATE TABLE job (name text NOT NULL);",
        "n0002_expand": "-- works-with: 0001\nALTER TABLE job ADD COLUMN title text;",
        "n0003_contract": "-- works-with: 0002\nALTER TABLE job DROP COLUMN name;",
    }
    for newest, (name, sql) in enumerate(files.items(), start=1):
        package.write(**{name: sql})
        assert not await is_current(empty, package.name)
        await migrate(empty, package.name)
        programs = {known: await fit(empty, {package.name: known}) for known in (1, 2, 3)}
        allowed = {known for known, found in programs.items() if found.problem is None}
        assert allowed == {1: {1}, 2: {1, 2}, 3: {2, 3}}[newest]
        waits = {known for known, found in programs.items() if found.problem is not None and not found.final}
        assert waits == set(range(newest + 1, 4))
    assert (await fit(empty, {package.name: 1})).problem == (
        f"the schema of {package.name} is at 0003 and needs a program that knows 0002, this one knows 0001"
    )


async def test_after_a_way_back_the_older_program_migrates_nothing_and_is_well(
    empty: Database, package: Package
) -> None:
    package.write(n0001_a="CREATE TABLE a ();", n0002_b="-- works-with: 0001\nCREATE TABLE b ();")
    await migrate(empty, package.name)
    (package.folder / "0002_b.sql").unlink()
    assert await migrate(empty, package.name) == []
    assert await is_current(empty, package.name)
    assert await tables(empty) == {"a", "b"}


async def test_a_database_that_an_older_runner_made_is_taken_over(empty: Database, package: Package) -> None:
    package.write(n0001_a="CREATE TABLE a ();")
    await migrate(empty, package.name)
    await empty.execute("ALTER TABLE schema_migration DROP COLUMN works_with")
    assert (await fit(empty, newest_of(package.name))).problem == "the schema is older than this program"
    assert await migrate(empty, package.name) == []
    assert await is_current(empty, package.name)


async def test_a_table_in_use_is_not_waited_for_while_all_others_wait_behind(
    empty: Database, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_SECONDS", 1)
    package.write(n0001_a="CREATE TABLE a (n int);")
    await migrate(empty, package.name)
    package.write(n0002_b="ALTER TABLE a ADD COLUMN m int;")
    async with transaction(empty) as tx:
        await tx.execute("INSERT INTO a VALUES (1)")
        with pytest.raises(MigrationBusy, match=r"0002_b\.sql waited 1 s for a table in use"):
            await migrate(empty, package.name)
    assert len(await migrate(empty, package.name)) == 1


@pytest.mark.parametrize(
    "line",
    ["-- works-with: 0002", "-- works-with: 0003", "-- works-with: 0000", "-- works with: 0001", "--works-with 1"],
)
def test_a_promise_to_older_programs_that_makes_no_sense_is_noticed(package: Package, line: str) -> None:
    package.write(n0001_a="SELECT 1", n0002_b=f"{line}\nSELECT 1")
    with pytest.raises(MigrationError, match=r"0002_b\.sql needs one line like"):
        migrations_of(package.name)


@pytest.mark.parametrize(
    "names", [["0001_a", "0003_c"], ["0002_b"], ["0001_a", "0001_b"], ["0001-a"], ["1_a"], ["0001_A"], ["0000_a"]]
)
def test_a_gap_a_double_or_a_wrong_name_is_noticed(package: Package, names: list[str]) -> None:
    package.write(**{f"n{name}": "SELECT 1" for name in names})
    with pytest.raises(MigrationError):
        migrations_of(package.name)
