"""Whatever comes is accepted, known, parked or quarantined, with a reason; nothing else happens, and nothing stops."""

import asyncio
from pathlib import Path

import pytest
from aifn_fedgate.domain.chain import Verdict
from aifn_fedgate.domain.envelope import Envelope
from aifn_fedgate.domain.gate import Gate
from aifn_fedgate.store.journal import BatchMemory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.federation.forgeries import FORGERIES, Scene
from tests.federation.make import Federation, Gatehouse, capacity, look

GATES: dict[Path, tuple[Gate, Envelope]] = {}


def test_there_are_more_than_forty_classes_of_bad_messages() -> None:
    assert len(FORGERIES) > 40


@pytest.mark.parametrize("name", FORGERIES)
def test_a_bad_message_gets_its_verdict_and_changes_nothing_that_was_believed(
    name: str, federation: Federation
) -> None:
    scene, gate, memory = Scene.set(federation), federation.gate("bsc-aif"), BatchMemory()
    assert [look(gate, memory, one).verdict for one in (scene.first, scene.second)] == ["accepted"] * 2
    forged = FORGERIES[name](scene)
    ruling = look(gate, memory, forged.raw, **forged.way)
    assert (ruling.verdict.value, ruling.code) == (forged.verdict, forged.code)
    assert ruling.arrival.raw == forged.raw
    assert ruling.fact is None
    chain = memory.chain("lumi-aif", "capacity")
    assert chain.at == ((1, 3) if ruling.moved and ruling.arrival.stream == "capacity" else (1, 2))
    assert chain.frozen is (ruling.verdict is Verdict.EQUIVOCATION)


def test_no_single_byte_of_an_envelope_can_change_unseen(federation: Federation) -> None:
    gate, raw = federation.gate("bsc-aif"), federation.writer("lumi-aif").next().raw
    believed = []
    for place in range(len(raw)):
        for flip in (0x01, 0x20, 0x80):
            memory = BatchMemory()
            changed = raw[:place] + bytes([raw[place] ^ flip]) + raw[place + 1 :]
            ruling = look(gate, memory, changed)
            if ruling.verdict is not Verdict.QUARANTINED or ruling.moved or memory.hashes:
                believed.append((place, flip, ruling.verdict, ruling.code))
    assert believed == []
    assert look(gate, BatchMemory(), raw).verdict is Verdict.ACCEPTED


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bytes_make_the_gate_raise_or_believe(federation: Federation, data: st.DataObject) -> None:
    fuzz(
        federation,
        data.draw(st.binary(max_size=400)),
        data.draw(st.binary(max_size=40)),
        data.draw(st.integers(0, 5000)),
    )


def fuzz(federation: Federation, noise: bytes, cut: bytes, where: int) -> None:
    """The fuzz target: noise alone, noise in the place of a part, and noise inside an envelope."""
    gate, honest = GATES.setdefault(
        federation.folder, (federation.gate("bsc-aif"), federation.writer("lumi-aif").peek())
    )
    parts = honest.raw.split(b".")
    place = where % len(honest.raw)
    tries = [noise, cut, honest.raw[:place] + noise + honest.raw[place:], honest.raw[:place]]
    tries += [b".".join([*parts[:n], noise, *parts[n + 1 :]]) for n in range(3)]
    for raw in tries:
        ruling = look(gate, BatchMemory(), raw)
        assert raw == honest.raw or ruling.verdict is Verdict.QUARANTINED


# The owner's key has signed these: two of them at one place are equivocation, which is another story.
SIGNED_BY_THE_OWNER = {
    "not_json", "not_cloudevents", "attribute_missing", "wrong_source", "wrong_sequence", "wrong_time", "wrong_type",
    "foreign_key", "wrong_key", "invalid_data", "wrong_content_type", "foreign_fact", "wrong_retirement",
}  # fmt: skip


async def test_bad_messages_are_kept_as_they_came_and_the_next_one_goes_through(
    federation: Federation, bsc: Gatehouse
) -> None:
    scene, gate = Scene.set(federation), federation.gate("bsc-aif")
    await bsc.hear(scene.first, scene.second)
    bad = []
    for make in FORGERIES.values():
        forged = make(Scene(federation, scene.writer, scene.first, scene.second))
        scene.writer.keys = federation.keys("lumi-aif")
        alone = BatchMemory(chains={("lumi-aif", "capacity"): scene.writer.chain})
        is_bad = not forged.way and look(gate, alone, forged.raw).verdict is Verdict.QUARANTINED
        if is_bad and forged.code not in SIGNED_BY_THE_OWNER:
            bad.append(forged)
        scene.writer.chain = await bsc.chain()
    assert len(bad) > 25
    async with asyncio.timeout(60):
        rulings = await bsc.hear(*(forged.raw for forged in bad[:-1]), scene.writer.peek(capacity(idle=3)))
    rows = await bsc.db.fetch("SELECT code, raw FROM quarantine ORDER BY id")
    kept = [(one.code, one.raw) for one in bad[:-1]]
    assert [(row["code"], row["raw"]) for row in rows][: len(kept)] == kept[: len(rows)]
    assert Verdict.ACCEPTED in {one.verdict for one in rulings}


async def test_ten_thousand_bad_messages_are_counted_and_only_so_many_are_kept(
    federation: Federation, bsc: Gatehouse
) -> None:
    honest = federation.writer("lumi-aif").next()
    at_most = bsc.door.settings.fed_quarantine_at_most
    for _ in range(10):
        await bsc.hear(*([b"bad"] * 1000))
    async with asyncio.timeout(30):
        (ruling,) = await bsc.hear(honest)
    assert ruling.verdict is Verdict.ACCEPTED
    assert await bsc.db.fetchval("SELECT count(*) FROM quarantine") == at_most
    count = await bsc.db.fetchval("SELECT count FROM verdict_count WHERE verdict = 'quarantined'")
    assert count == 10_000
