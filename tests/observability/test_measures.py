"""What services tell of themselves from their databases: books, gaps, and what other members are up to."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import pytest
from aifn_accounting.actions import grants
from aifn_accounting.measures import Measures
from aifn_accounting.store import ledger
from aifn_common import telemetry
from aifn_common.database import Database, transaction
from aifn_fedgate import measures as gate

from tests.support.backends import Backends

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
_GAP = """
INSERT INTO usage_gap
    (machine_id, day, reason, statement_revision, stated_records, records, overlapping, opened_at, looked_at, closed_at)
VALUES ($1, $2, 'not_stated', NULL, NULL, 3, 0, $3, $3, $4)"""


@pytest.fixture
async def books(backends: Backends) -> AsyncIterator[Database]:
    """Accounting's database."""
    async with backends.database("aifn_accounting") as made:
        yield made


async def test_books_that_hold_have_no_drift_and_open_gaps_are_counted_by_machine(books: Database) -> None:
    for machine, day, closed_at in (("lumi", 19, None), ("lumi", 20, None), ("lumi", 18, NOON), ("mn5", 20, None)):
        await books.execute(_GAP, machine, date(2026, 11, day), NOON, closed_at)
    measures = Measures()
    await measures.measure(books)
    assert telemetry.metrics.ledger_drift.values() == {(): 0}
    assert telemetry.metrics.days_incomplete.values() == {("lumi",): 2, ("mn5",): 1}
    await books.execute("UPDATE usage_gap SET closed_at = opened_at WHERE machine_id = 'mn5'")
    await measures.measure(books)
    assert telemetry.metrics.days_incomplete.values() == {("lumi",): 2}


async def test_a_balance_that_somebody_changed_in_the_database_shows_as_drift_until_it_is_put_right(
    books: Database,
) -> None:
    # The alert is on `aifn_ledger_drift != 0`; rules/aifn.test.yaml shows that it fires.
    drift = telemetry.metrics.ledger_drift
    async with transaction(books) as tx:
        await ledger.add_project(tx, "p1", "A project", "lumi-aif", by="test", at=NOON)
        await grants.open_allocation(
            tx,
            "p1",
            "lumi/lumi-g/gpu-time",
            amount=1000,
            pool="union",
            starts_at=NOON,
            ends_at=NOON + timedelta(days=100),
            award_id=None,
            reason="a test",
            by="test",
        )
    await Measures().measure(books)
    assert drift.values() == {(): 0}
    # One that the table's own rules do not notice: the five numbers still fit each other.
    await books.execute("UPDATE allocation SET granted = granted + 1, available = available + 1")
    await Measures().measure(books)
    assert drift.values()[()] >= 1
    await books.execute("UPDATE allocation SET granted = granted - 1, available = available - 1")
    await Measures().measure(books)
    assert drift.values() == {(): 0}


async def test_the_gate_tells_of_open_alarms_old_gaps_and_what_it_did_not_believe(backends: Backends) -> None:
    metrics = telemetry.metrics
    async with backends.database("aifn_fedgate") as db:
        await db.execute(
            """
            INSERT INTO alarm VALUES ('bsc-aif', 'usage', 'gap', 'x', now(), NULL),
                ('bsc-aif', 'head', 'gap', 'x', now(), NULL), ('jaif', 'head', 'silence', 'x', now(), now());
            INSERT INTO chain (origin, stream, epoch, seq, seen_epoch, seen_seq, moved_at)
            VALUES ('bsc-aif', 'usage', 1, 5, 1, 9, now() - interval '10 minutes'),
                   ('bsc-aif', 'head', 1, 5, 1, 6, now()), ('jaif', 'usage', 2, 1, 1, 9, now() - interval '1 day');
            INSERT INTO quarantine (origin, stream, via, code, reason, heard_at)
            VALUES ('jaif', 'usage', 'relay-a', 'x', 'x', now()),
                   ('jaif', 'usage', 'relay-a', 'x', 'x', now() - interval '2 days')"""
        )
        await gate.measure(db)
        assert metrics.federation_alarms.values() == {("bsc-aif", "gap"): 2}
        assert {key: round(seconds / 60) for key, seconds in metrics.federation_gaps.values().items()} == {
            ("bsc-aif",): 10
        }
        assert metrics.federation_quarantined.values() == {("jaif",): 1}
        await db.execute("UPDATE alarm SET ended_at = now(); DELETE FROM chain; DELETE FROM quarantine")
        await gate.measure(db)
        assert metrics.federation_alarms.values() == metrics.federation_gaps.values() == {}
