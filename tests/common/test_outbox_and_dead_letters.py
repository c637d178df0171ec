"""What is announced keeps its order and its trace; what is set aside is kept to the byte and can be sent again."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from aifn_common import dead_letters, outbox, telemetry
from aifn_common.database import Database, transaction
from aifn_common.errors import NotFound, Refusal
from aifn_common.inbox import forget_old
from aifn_common.outbox import MOST_BYTES, MessageTooLarge, announce, announce_all, pack_headers, unpack_headers
from aifn_common.telemetry import handling
from aifn_events.access import ProjectDescribed
from aifn_events.cloudevents import MalformedEvent
from aifn_events.placement import JobDispatched, JobPlaced
from hypothesis import given
from hypothesis import strategies as st

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HOSTILE: list[tuple[str, bytes | None]] = [
    ("ce_id", b"\xff\x00"),
    ("ce_id", None),
    ("ce_id", b"twice"),
    ("", b""),
    ("name with \0 and \U0001f600", b"\x80"),
]


@dataclass
class Record:
    """A message as the client hands it out."""

    topic: str = JobPlaced.topic
    partition: int = 2
    offset: int = 41
    timestamp: int = 0
    key: bytes | None = b"\xfe\x00"
    value: bytes | None = b"\x00\xff{"
    headers: Sequence[tuple[str, bytes | None]] = field(default_factory=lambda: list(HOSTILE))


WHY = dead_letters.Verdict("invalid_payload", "it is wrong", {"asked": 7})


async def outbox_rows(db: Database) -> list[dict[str, object]]:
    return [dict(row) for row in await db.fetch("SELECT * FROM outbox ORDER BY seq")]


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.none() | st.binary())))
def test_headers_come_out_as_they_went_in(headers: list[tuple[str, bytes | None]]) -> None:
    assert unpack_headers(pack_headers(headers)) == headers


async def test_what_is_announced_keeps_its_order_on_both_paths(db: Database) -> None:
    events = [JobPlaced.example(job_id=f"j-{n}") for n in range(20)]
    async with transaction(db) as tx:
        await announce(tx, events[0])
        await announce_all(tx, events[1:19])
        await announce_all(tx, [])
        await announce(tx, events[19])
    assert [row["event_id"] for row in await outbox_rows(db)] == [event.id for event in events]
    assert await outbox.waiting(db) == 20


async def test_the_trace_of_the_cause_goes_along_with_what_follows_from_it(db: Database) -> None:
    with handling("test", TRACE):
        async with transaction(db) as tx:
            await announce(tx, JobPlaced.example())
            await announce_all(tx, [JobPlaced.example()])
    async with transaction(db) as tx:
        await announce(tx, JobPlaced.example())
    traces = [row["traceparent"] for row in await outbox_rows(db)]
    assert [str(trace)[3:35] for trace in traces[:2]] == [TRACE[3:35]] * 2
    assert traces[2] is None


async def test_an_event_too_large_for_any_broker_is_refused_where_it_is_announced(db: Database) -> None:
    members = [{"subject": f"{n:04}" + "x" * 250, "role": "member"} for n in range(4500)]
    event = ProjectDescribed.example(members=members)
    for say in (announce(db, event), announce_all(db, [JobPlaced.example(), event])):  # type: ignore[arg-type]
        with pytest.raises(MessageTooLarge):
            await say
    assert await outbox.waiting(db) == 0
    async with transaction(db) as tx:
        await announce(tx, JobDispatched.example(script="#" * 65_536))


async def test_what_is_set_aside_is_kept_and_copied_to_the_byte(db: Database) -> None:
    record = Record()
    await dead_letters.set_aside_alone(db, "victim", record, WHY)
    [kept] = await db.fetch("SELECT * FROM dead_letter")
    assert (kept["key"], kept["value"], unpack_headers(kept["raw_headers"])) == (record.key, record.value, HOSTILE)
    assert (kept["code"], kept["reason"], kept["details"]) == ("invalid_payload", "it is wrong", {"asked": 7})
    [copy] = await outbox_rows(db)
    assert (copy["topic"], copy["key"], copy["value"]) == (f"{JobPlaced.topic}-dead", record.key, record.value)
    headers = unpack_headers(str(copy["raw_headers"]))
    assert headers[: len(HOSTILE)] == HOSTILE
    assert dict(headers[len(HOSTILE) :]) == {
        "aifn-dead-consumer": b"victim",
        "aifn-dead-origin": f"{JobPlaced.topic}/2/41".encode(),
        "aifn-dead-code": b"invalid_payload",
        "aifn-dead-reason": b"it is wrong",
    }


async def test_the_same_offset_is_set_aside_once_for_each_who_could_not_handle_it(db: Database) -> None:
    for consumer in ("one", "one", "two"):
        await dead_letters.set_aside_alone(db, consumer, Record(), WHY)
    await dead_letters.set_aside_alone(db, "one", Record(offset=42), WHY)
    assert await db.fetchval("SELECT count(*) FROM dead_letter") == 3
    assert await outbox.waiting(db) == 3


async def test_a_message_replayed_goes_to_its_own_topic_as_it_came_and_is_marked(db: Database) -> None:
    record = Record()
    await dead_letters.set_aside_alone(db, "victim", record, WHY)
    number = await db.fetchval("SELECT id FROM dead_letter")
    async with transaction(db) as tx:
        assert await dead_letters.replay(tx, number, by="otto") == JobPlaced.topic
        with pytest.raises(NotFound):
            await dead_letters.replay(tx, number + 1, by="otto")
    again = (await outbox_rows(db))[-1]
    assert (again["topic"], again["key"], again["value"]) == (JobPlaced.topic, record.key, record.value)
    assert unpack_headers(str(again["raw_headers"])) == HOSTILE
    assert await db.fetchval("SELECT replayed_by FROM dead_letter WHERE replayed_at IS NOT NULL") == "otto"


async def test_a_message_too_large_to_be_sent_is_kept_whole_and_its_copy_says_where(db: Database) -> None:
    record = Record(value=b"x" * (MOST_BYTES + 1))
    await dead_letters.set_aside_alone(db, "victim", record, WHY)
    assert await db.fetchval("SELECT length(value) FROM dead_letter") == MOST_BYTES + 1
    [copy] = await outbox_rows(db)
    assert copy["value"] is None
    headers = dict(unpack_headers(str(copy["raw_headers"])))
    assert headers["aifn-dead-kept-in"] == b"database"
    assert headers["aifn-dead-origin"] == f"{JobPlaced.topic}/2/41".encode()
    number = await db.fetchval("SELECT id FROM dead_letter")
    with pytest.raises(MessageTooLarge):
        async with transaction(db) as tx:
            await dead_letters.replay(tx, number, by="otto")
    assert await db.fetchval("SELECT replayed_at FROM dead_letter") is None


class Odd(Refusal):
    """A refusal whose values no column can keep as they are."""

    code = "odd"

    def __init__(self) -> None:
        super().__init__("a\0b \ud800 " + "x" * 3000)
        self.text = "c\0d"
        self.amount = 2**70
        self.parts = [1, "\0"]
        self.flag = True
        self.nothing = None


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Odd(), "odd"), (MalformedEvent("not_json", "no\0"), "not_json"), (KeyError("k\0\udfff"), "fault")],
)
async def test_a_reason_that_no_database_could_keep_is_kept_in_other_letters(
    db: Database, fault: Exception, code: str
) -> None:
    await dead_letters.set_aside_alone(db, "victim", Record(), dead_letters.verdict_of(fault))
    [kept] = await db.fetch("SELECT code, reason, details FROM dead_letter")
    assert kept["code"] == code
    assert "\0" not in kept["reason"]
    assert len(kept["reason"]) <= 2000
    if code == "odd":
        assert kept["details"]["text"] == "c?d"
        assert (kept["details"]["flag"], kept["details"]["nothing"]) == (True, None)


async def test_dead_letters_are_listed_in_order_and_by_topic(db: Database) -> None:
    for offset in range(5):
        await dead_letters.set_aside_alone(db, "victim", Record(offset=offset), WHY)
    await dead_letters.set_aside_alone(db, "victim", Record(topic=JobDispatched.topic), WHY)
    async with transaction(db) as tx:
        first = await dead_letters.list_them(tx, after=0, topic=JobPlaced.topic, limit=3)
        rest = await dead_letters.list_them(tx, after=first[-1]["id"], topic=None, limit=50)
    assert [row["offset"] for row in [*first, *rest]] == [0, 1, 2, 3, 4, 41]


async def test_what_waits_is_measured_and_its_age_is_in_real_seconds_whatever_the_clock(db: Database) -> None:
    metrics = telemetry.metrics
    await outbox.measure(db, clock_factor=1)
    assert (metrics.outbox_waiting.values(), metrics.outbox_age.values()) == ({(): 0}, {(): 0.0})
    async with transaction(db) as tx:
        for number in range(2):
            await announce(tx, JobPlaced.example(job_id=f"job-{number}"))
    await db.execute("UPDATE outbox SET time = now() - interval '1 hour' WHERE seq = (SELECT min(seq) FROM outbox)")
    await outbox.measure(db, clock_factor=60)
    assert metrics.outbox_waiting.values() == {(): 2}
    assert 60 <= metrics.outbox_age.values()[()] < 120
    await dead_letters.set_aside_alone(db, "accounting", Record(), WHY)
    await dead_letters.set_aside_alone(db, "accounting", Record(offset=42), WHY)
    await dead_letters.measure(db)
    assert metrics.dead_waiting.values() == {(JobPlaced.topic,): 2}
    async with transaction(db) as tx:
        for row in await dead_letters.list_them(tx, after=0, topic=None, limit=10):
            await dead_letters.replay(tx, row["id"], by="somebody")
    await dead_letters.measure(db)
    assert metrics.dead_waiting.values() == {}


async def test_the_inbox_forgets_what_no_topic_can_repeat_any_more(db: Database) -> None:
    await db.execute("INSERT INTO inbox VALUES ('c', 's', 'new', now()), ('c', 's', 'old', now() - interval '36 days')")
    await forget_old(db)
    assert [row["event_id"] for row in await db.fetch("SELECT event_id FROM inbox")] == ["new"]
