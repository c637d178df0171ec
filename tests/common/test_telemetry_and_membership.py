"""A log line is one JSON object with its trace; who belongs to a project is the newest word about it."""

import json
import logging
import sys
from datetime import datetime

import pytest
from aifn_common import membership
from aifn_common.access import Grant
from aifn_common.database import Database, transaction
from aifn_common.telemetry import JsonLines, Seldom, current_traceparent, handling, handling_batch
from aifn_events.access import ProjectDescribed
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def line(message: str, *values: object, **extra: object) -> dict[str, object]:
    record = logging.getLogger("aifn.test").makeRecord(
        "aifn.test", logging.WARNING, "file", 1, message, values, None, extra=extra
    )
    text = JsonLines("accounting").format(record)
    assert "\n" not in text
    found: dict[str, object] = json.loads(text)
    return found


def test_a_log_line_says_when_who_how_bad_and_what() -> None:
    found = line("two\nlines %s", "é", topic="aifn-job-placed-v1", offset=7, unknown=object())
    assert datetime.fromisoformat(str(found["time"])).utcoffset() is not None
    assert str(found["time"]).endswith("Z")
    assert (found["level"], found["service"], found["logger"]) == ("WARNING", "accounting", "aifn.test")
    assert found["message"] == "two\nlines é"
    assert (found["topic"], found["offset"]) == ("aifn-job-placed-v1", 7)
    assert "unknown" not in found
    assert "trace_id" not in found


def test_a_log_line_inside_of_a_handling_carries_the_trace_of_the_event() -> None:
    with handling("test", TRACE):
        found = line("x")
    assert found["trace_id"] == TRACE[3:35]
    assert len(str(found["span_id"])) == 16


def test_a_log_line_with_an_exception_stays_one_line() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    text = JsonLines("x").format(record)
    assert "\n" not in text
    assert "ValueError: no" in json.loads(text)["exception"]


@given(st.text())
def test_any_message_makes_a_readable_log_line(message: str) -> None:
    assert line("%s", message)["message"] == message


def test_a_library_that_repeats_itself_is_heard_now_and_then_and_others_always() -> None:
    seldom = Seldom("aiokafka", seconds=30)

    def heard(name: str, message: str, at: float) -> bool:
        record = logging.LogRecord(name, logging.ERROR, "f", 1, message, (), None)
        record.created = at
        return seldom.filter(record)

    assert [heard("aiokafka", "cannot connect to 1", at) for at in (100, 100.1, 129, 130, 131)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert heard("aiokafka.client", "cannot connect to 1", 101)
    assert heard("aiokafka", "cannot connect to 2", 101)
    assert [heard(name, "the same", 100) for name in ("aifn", "aifn", "aiokafka_of_others", "aiokafka_of_others")] == [
        True
    ] * 4
    assert all(heard("aiokafka", f"other {number}", 102) for number in range(3000))


@pytest.mark.parametrize("traceparent", [None, "", "nonsense", "00-0-0-00", TRACE.upper() + "x" * 50])
def test_a_trace_that_cannot_be_read_breaks_nothing(traceparent: str | None) -> None:
    with handling("test", traceparent) as span:
        assert span is not None
    with handling_batch("test", [traceparent or "", TRACE]):
        pass


def test_what_is_announced_in_a_span_continues_the_trace() -> None:
    tracer = TracerProvider().get_tracer("test")
    assert current_traceparent() is None
    with tracer.start_as_current_span("cause") as span:
        context = span.get_span_context()
        assert str(current_traceparent()).startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
    assert not trace.get_current_span().get_span_context().is_valid


def described(revision: int, *subjects: str, **more: object) -> ProjectDescribed:
    members = [{"subject": subject, "role": "member"} for subject in subjects]
    return ProjectDescribed.example(project_id="p-1", revision=revision, members=members, **more)


async def members(db: Database) -> set[str]:
    return {row["subject"] for row in await db.fetch("SELECT subject FROM membership WHERE project_id = 'p-1'")}


async def test_the_highest_revision_counts_in_whatever_order_they_come(db: Database) -> None:
    async with transaction(db) as tx:
        for revision, subjects, expected in [
            (2, ["a", "b"], {"a", "b"}),
            (1, ["z"], {"a", "b"}),
            (2, ["y"], {"a", "b"}),
            (5, ["b", "c"], {"b", "c"}),
            (3, ["a"], {"b", "c"}),
            (6, [], set()),
        ]:
            await membership.remember_project(tx, described(revision, *subjects))
            assert await members(db) != {"never"}
            assert {row["subject"] for row in await tx.fetch("SELECT subject FROM membership")} == expected


async def test_a_person_has_their_role_in_each_of_their_projects(db: Database) -> None:
    async with transaction(db) as tx:
        await membership.remember_project(tx, described(0, "a", "b", factory_id="lumi-aif"))
        other = [{"subject": "a", "role": "pi"}]
        await membership.remember_project(tx, ProjectDescribed.example(project_id="p-2", members=other))
        assert await membership.projects_of(tx, "a") == {
            Grant("member", "project", "p-1"),
            Grant("pi", "project", "p-2"),
        }
        assert await membership.projects_of(tx, "nobody") == frozenset()
