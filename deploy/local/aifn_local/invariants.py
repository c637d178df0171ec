"""What must be true when all is quiet: checked by reading tables only, with none of the services' code."""

import asyncio
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

# By what the accounts hold, not by what the postings claim.
_SUMS = """
SELECT a.resource, sum(p.amount) AS total, count(*) AS n FROM posting p LEFT JOIN account a ON a.id = p.account_id
GROUP BY 1"""
_RECORDS = """
SELECT machine_id, (ended_at AT TIME ZONE 'UTC')::date AS day, local_job_id,
       to_char(submitted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS') AS submitted,
       extract(microseconds FROM submitted_at)::bigint % 1000000 AS micros, segment, revision, amounts
FROM current_usage"""
_CHARGED = "SELECT resource, sum(charged) AS charged FROM allocation GROUP BY 1"
UNSENT_SECONDS = 10.0


@dataclass(frozen=True)
class Check:
    """One statement about the whole, whether it holds, and the numbers it was judged by."""

    statement: str
    holds: bool
    numbers: str


class Tables:
    """Read-only looks into the databases of a factory; `urls` by database name, site agents as siteagent_<machine>."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = urls

    @property
    def names(self) -> list[str]:
        """All databases."""
        return list(self._urls)

    @property
    def sites(self) -> list[str]:
        """The databases of site agents."""
        return [name for name in self._urls if name.startswith("siteagent_")]

    async def rows(self, database: str, statement: str) -> list[asyncpg.Record]:
        """The rows of one statement. A server that is being restarted is waited for."""
        for attempt in range(60):
            try:
                connection = await asyncpg.connect(self._urls[database], timeout=10)
                try:
                    return list(await connection.fetch(statement))
                finally:
                    await connection.close()
            except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
                if attempt == 59:
                    raise
                await asyncio.sleep(0.5)
        raise AssertionError

    async def value(self, database: str, statement: str) -> Any:
        """The one value of one statement."""
        return (await self.rows(database, statement))[0][0]

    async def everywhere(self, statement: str) -> dict[str, int]:
        """One number from each database."""
        return {name: int(await self.value(name, statement)) for name in self._urls}

    async def job_counts(self) -> Counter[str]:
        """Jobs by state, closed ones by outcome."""
        statement = "SELECT coalesce(outcome, state) AS what, count(*) AS jobs FROM job GROUP BY 1"
        return Counter({row["what"]: row["jobs"] for row in await self.rows("scheduler", statement)})

    async def quiet(self) -> bool:
        """Whether nothing is on its way any more."""
        open_jobs = await self.value("scheduler", "SELECT count(*) FROM job WHERE state <> 'closed'")
        held = await self.value("accounting", "SELECT coalesce(sum(held), 0) FROM allocation")
        unstated = await self._unstated_days()
        return not (open_jobs or held or unstated or await self.unsent(patience=1))

    async def unsent(self, *, patience: float) -> dict[str, int]:
        """Messages by database that are in an outbox now and still there after `patience` seconds.

        Site agents report for as long as they live, so that an outbox may be seen with a message that is just passing.
        """
        last = await self.everywhere("SELECT coalesce(max(seq), 0) FROM outbox")
        deadline = time.monotonic() + patience
        while True:
            found = {
                name: int(await self.value(name, f"SELECT count(*) FROM outbox WHERE seq <= {seq}"))
                for name, seq in last.items()
            }
            if not any(found.values()) or time.monotonic() > deadline:
                return {name: count for name, count in found.items() if count}
            await asyncio.sleep(0.1)

    async def _unstated_days(self) -> int:
        stated = await self.rows("accounting", "SELECT machine_id, sum(records) AS records FROM usage_day GROUP BY 1")
        charged = await self.rows("accounting", "SELECT machine_id, count(*) AS records FROM current_usage GROUP BY 1")
        counts = {row["machine_id"]: row["records"] for row in stated}
        return sum(row["records"] != counts.get(row["machine_id"], 0) for row in charged)


async def check(tables: Tables, *, jobs_submitted: int) -> list[Check]:
    """Every invariant of a run that has come to rest."""
    return [
        *await _ledger(tables),
        *await _usage(tables),
        *await _jobs(tables, jobs_submitted),
        _nothing("every outbox is empty", tables, await tables.unsent(patience=UNSENT_SECONDS)),
        _nothing("no message was set aside", tables, await tables.everywhere("SELECT count(*) FROM dead_letter")),
    ]


def _nothing(statement: str, tables: Tables, found: Mapping[str, int]) -> Check:
    some = ", ".join(f"{count} in {name}" for name, count in found.items() if count)
    return Check(statement, not some, f"{len(tables.names)} databases" + (f", but {some}" if some else ""))


async def _ledger(tables: Tables) -> list[Check]:
    sums = await tables.rows("accounting", _SUMS)
    drift = await tables.rows(
        "accounting",
        """
        SELECT a.id FROM allocation a, LATERAL (
            SELECT coalesce(sum(amount) FILTER (WHERE account_id = a.available_account), 0) AS available,
                   coalesce(sum(amount) FILTER (WHERE account_id = a.held_account), 0) AS held,
                   coalesce(sum(amount) FILTER (WHERE account_id = a.consumed_account), 0) AS charged,
                   coalesce(sum(amount) FILTER (WHERE account_id = a.overrun_account), 0) AS overrun
            FROM posting
            WHERE account_id IN (a.available_account, a.held_account, a.consumed_account, a.overrun_account)) p
        WHERE (a.available, a.held, a.charged, -a.overrun) <> (p.available, p.held, p.charged, p.overrun)
           OR a.granted <> a.available + a.held + a.charged - a.overrun OR a.available < 0""",
    )
    held = await tables.value("accounting", "SELECT coalesce(sum(held), 0) FROM allocation")
    postings = sum(row["n"] for row in sums)
    return [
        Check(
            "the ledger sums to zero in every resource",
            all(row["total"] == 0 for row in sums),
            f"{postings:,} postings in {len(sums)} resources",
        ),
        Check("every balance equals its postings, none below zero", not drift, f"{len(drift)} differ"),
        Check("no budget is held when no job runs", held == 0, f"{held} slice-seconds held"),
    ]


async def _usage(tables: Tables) -> list[Check]:
    records = await tables.rows("accounting", _RECORDS)
    reported: Counter[str] = Counter()
    for row in records:
        reported.update(_amounts(row["amounts"]))
    charged = {row["resource"]: int(row["charged"]) for row in await tables.rows("accounting", _CHARGED)}
    differing = {name for name in {*reported, *charged} if reported[name] != charged.get(name, 0)}
    total = sum(reported.values())
    return [
        Check(
            "what was charged is the sum of unique usage records",
            not differing,
            f"{len(records):,} records, {total:,} slice-seconds{_but(differing)}",
        ),
        await _completeness(tables, records),
    ]


def _but(names: Iterable[str]) -> str:
    wrong = sorted(names)
    return f"; not in {', '.join(wrong[:3])}" if wrong else ""


def _amounts(value: Any) -> Mapping[str, int]:
    found: Mapping[str, int] = json.loads(value) if isinstance(value, str) else value
    return found


async def _completeness(tables: Tables, records: Iterable[asyncpg.Record]) -> Check:
    """Each site-day's own statement against the records that arrived, count and digest; no day without a statement."""
    arrived: dict[tuple[str, Any], list[asyncpg.Record]] = defaultdict(list)
    for row in records:
        arrived[row["machine_id"], row["day"]].append(row)
    stated = {
        (row["machine_id"], row["day"]): (row["records"], row["digest"])
        for row in await tables.rows("accounting", "SELECT machine_id, day, records, digest FROM usage_day")
    }
    wrong = [
        f"{machine} {day}"
        for machine, day in {*arrived, *stated}
        if stated.get((machine, day)) != (len(arrived[machine, day]), digest_of(arrived[machine, day]))
    ]
    return Check(
        "every site-day's own statement agrees with what arrived",
        not wrong,
        f"{len(stated)} site-days, {sum(count for count, _ in stated.values()):,} records{_but(wrong)}",
    )


def digest_of(lines: Iterable[asyncpg.Record | dict[str, Any]]) -> str:
    """The digest of a day as the contract of `UsageDayStated` words it."""
    written = []
    for line in lines:
        micros = f".{line['micros']:06d}" if line["micros"] else ""
        written.append(f"{line['local_job_id']}|{line['submitted']}{micros}Z|{line['segment']}|{line['revision']}\n")
    return hashlib.sha256("".join(sorted(written)).encode()).hexdigest()


async def _jobs(tables: Tables, submitted: int) -> list[Check]:
    counts = await tables.job_counts()
    known = sum(counts.values())
    final = await tables.value(
        "scheduler", "SELECT count(*) FROM job WHERE state = 'closed' AND outcome IS NOT NULL AND closed_at IS NOT NULL"
    )
    measured: Counter[str] = Counter()
    for site in tables.sites:
        for row in await tables.rows(site, "SELECT resource, sum(amount) AS amount FROM usage_record GROUP BY 1"):
            measured[row["resource"]] += int(row["amount"])
    charged = await tables.rows("accounting", _CHARGED)
    same = measured == Counter({row["resource"]: int(row["charged"]) for row in charged if row["charged"]})
    return [
        Check(
            "every job that was taken has one final state",
            final == known == submitted,
            f"{final:,} of {submitted:,}",
        ),
        Check(
            "what was charged is what the sites measured",
            same,
            f"{len(tables.sites)} sites, {sum(measured.values()):,} slice-seconds",
        ),
    ]
