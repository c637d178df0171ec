"""What is missing, changed, silent or restored is noticed, and mended without a person where that is possible."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from aifn_common.database import transaction
from aifn_events.datalab import DatasetDescribed
from aifn_fedgate import ceremony, timers
from aifn_fedgate.actions import heads
from aifn_fedgate.actions.receive import look_again
from aifn_fedgate.commands import app as commands
from aifn_fedgate.domain.envelope import read
from aifn_fedgate.requests import write_token
from aifn_fedgate.store import journal
from typer.testing import CliRunner

from tests.federation.make import Federation, Gatehouse, capacity


def dataset(name: str, *, revision: int = 0, retired: bool = False) -> DatasetDescribed:
    return DatasetDescribed.example(
        dataset_id=name, revision=revision, retired=retired, source="urn:aifn:lumi-aif:datalab"
    )


async def same_state(owner: Gatehouse, other: Gatehouse, stream: str = "capacity") -> bool:
    ours, theirs = await other.chain(owner.name, stream), await owner.chain(owner.name, stream)
    return (ours.at, ours.tip, ours.keys, ours.digest) == (theirs.at, theirs.tip, theirs.keys, theirs.digest)


async def test_a_silent_member_raises_one_alarm_and_is_asked_over_https(lumi: Gatehouse, bsc: Gatehouse) -> None:
    await bsc.repair.watch_silence()
    await lumi.tell(capacity())
    await heads.sign_heads(lumi.db, lumi.door)
    lumi.clock.ahead = bsc.clock.ahead = timedelta(seconds=91)
    assert "lumi-aif" in await bsc.repair.watch_silence()
    assert "ju" in await bsc.repair.watch_silence()
    raised = await bsc.facts("aifn-federation-alarm-raised-v1")
    assert [one["alarm"] for one in raised if one["origin"] == "ju"] == ["silence"]
    assert await bsc.repair.close_gaps() >= 1
    assert await same_state(lumi, bsc)
    assert ("lumi-aif", "", "silence") not in await bsc.alarms()


async def test_a_late_joiner_reads_the_state_and_no_ghost(lumi: Gatehouse, bsc: Gatehouse) -> None:
    for number in range(12):
        await lumi.tell(dataset(f"set-{number % 4}", revision=number), "catalogue")
    await lumi.tell(dataset("set-0", revision=20, retired=True), "catalogue")
    await heads.sign_heads(lumi.db, lumi.door)
    assert await bsc.repair.rebuild("lumi-aif", "catalogue") == 3
    assert await same_state(lumi, bsc, "catalogue")
    assert sorted(fact["record_key"] for fact in await bsc.facts("aifn-in-catalogue-v1")) == [
        f"lumi-aif/set-{number}" for number in (1, 2, 3)
    ]
    envelope = await lumi.tell(dataset("set-9"), "catalogue")
    assert [one.verdict for one in await bsc.hear(envelope, stream="catalogue")] == ["accepted"]


async def test_a_late_joiner_that_reaches_nobody_reads_the_state_that_the_relays_carried(
    lumi: Gatehouse, bsc: Gatehouse
) -> None:
    for number in range(12):
        await lumi.tell(dataset(f"set-{number % 4}", revision=number), "catalogue")
    await lumi.tell(dataset("set-0", revision=20, retired=True), "catalogue")
    await heads.sign_heads(lumi.db, lumi.door)
    later = [
        await lumi.tell(dataset("set-1", revision=30), "catalogue"),
        await lumi.tell(dataset("set-9"), "catalogue"),
    ]
    lumi.apps.pop("lumi-aif")
    noise = [b"noise", later[0].raw[:-8] + b"AAAAAAAA"]

    async def carried(origin: str, stream: str) -> AsyncIterator[list[bytes]]:
        topic = f"aifn-out-{stream}-state-v1"
        rows = await lumi.db.fetch("SELECT value FROM outbox WHERE topic = $1 ORDER BY seq", topic)
        values = [row["value"] for row in rows if origin == "lumi-aif"]
        for start in range(0, len(values), 5):
            yield values[start : start + 5]
        yield noise

    assert [one.verdict for one in await bsc.hear(*later, stream="catalogue")] == ["gap", "gap"]
    assert await bsc.repair.close_gaps() == 0, "nobody answers, and without the topics it waits"
    bsc.repair.carried = carried
    assert await bsc.repair.close_gaps() >= 3
    assert await same_state(lumi, bsc, "catalogue")
    found = [(fact["record_key"], fact["seq"]) for fact in await bsc.facts("aifn-in-catalogue-v1")]
    assert sorted(found) == [
        (f"lumi-aif/set-{number}", seq) for number, seq in ((1, 10), (1, 14), (2, 11), (3, 12), (9, 15))
    ]
    assert ("lumi-aif", "catalogue", "gap") not in await bsc.alarms()


async def test_a_carried_state_whose_digest_is_not_the_head_s_is_not_taken_over(
    lumi: Gatehouse, bsc: Gatehouse
) -> None:
    told = [await lumi.tell(dataset(f"set-{number}"), "catalogue") for number in range(4)]
    await heads.sign_heads(lumi.db, lumi.door)
    (head,) = await lumi.db.fetch("SELECT value FROM outbox WHERE topic = 'aifn-out-head-state-v1'")
    lumi.apps.pop("lumi-aif")

    async def carried(_: str, stream: str) -> AsyncIterator[list[bytes]]:
        yield [head["value"]] if stream == "head" else [one.raw for one in told[1:]]

    bsc.repair.carried = carried
    assert await bsc.repair.rebuild("lumi-aif", "catalogue") == 0
    assert await bsc.facts("aifn-in-catalogue-v1") == []
    assert (await bsc.chain("lumi-aif", "catalogue")).seq == 0


async def test_a_replica_that_has_diverged_is_found_by_the_head_and_read_again(lumi: Gatehouse, bsc: Gatehouse) -> None:
    told = [await lumi.tell(dataset(f"set-{number}"), "catalogue") for number in range(4)]
    await bsc.hear(*told, stream="catalogue")
    await bsc.db.execute(
        "INSERT INTO replica (origin, stream, key_hash, epoch, seq, hash, raw)"
        " SELECT origin, stream, $1, epoch, seq, hash, raw FROM replica LIMIT 1",
        bytes(32),
    )
    await bsc.db.execute("UPDATE chain SET keys = 5, digest = $1 WHERE stream = 'catalogue'", bytes(31) + b"x")
    await heads.sign_heads(lumi.db, lumi.door)
    await bsc.repair.peek("lumi-aif")
    assert ("lumi-aif", "catalogue", "diverged") in await bsc.alarms()
    assert await bsc.repair.mend_diverged() == 4
    assert await same_state(lumi, bsc, "catalogue")
    assert ("lumi-aif", "catalogue", "diverged") not in await bsc.alarms()
    assert await bsc.db.fetchval("SELECT count(*) FROM replica WHERE stream = 'catalogue'") == 4


async def test_a_restored_backup_begins_a_new_epoch_and_what_it_lost_is_swept(lumi: Gatehouse, bsc: Gatehouse) -> None:
    told = [await lumi.tell(dataset(f"set-{number}"), "catalogue") for number in range(5)]
    await bsc.hear(*told, stream="catalogue")
    await heads.sign_heads(lumi.db, lumi.door)
    await bsc.repair.peek("lumi-aif")
    # The backup: the last two, and the head, were never written.
    await lumi.db.execute("DELETE FROM journal WHERE stream = 'head' OR seq > 3")
    await lumi.db.execute("DELETE FROM replica WHERE stream = 'head' OR seq > 3")
    await lumi.db.execute("DELETE FROM chain WHERE stream = 'head'")
    third = told[2]
    weights = [one.header.key_hash for one in told[3:]]
    async with transaction(lumi.db) as tx:
        chain = (await journal.lock_chains(tx, [("lumi-aif", "catalogue")]))["lumi-aif", "catalogue"]
        for key, envelope in zip(weights, told[3:], strict=True):
            chain.replace(key, envelope.hash, None)
        chain.seq, chain.tip, chain.seen = 3, third.hash, (1, 3)
        await journal.save_chains(tx, [chain])
    await timers.begin(lumi.repair)
    assert (await lumi.chain("lumi-aif", "catalogue")).at == (2, 3)
    await heads.sign_heads(lumi.db, lumi.door)
    await bsc.repair.peek("lumi-aif")
    assert ("lumi-aif", "catalogue", "new_epoch") in await bsc.alarms()
    await bsc.repair.close_gaps()
    await bsc.repair.peek("lumi-aif")
    await bsc.repair.mend_diverged()
    assert await same_state(lumi, bsc, "catalogue")
    gone = [fact["record_key"] for fact in await bsc.facts("aifn-in-catalogue-v1") if fact["retired"]]
    assert sorted(gone) == ["lumi-aif/set-3", "lumi-aif/set-4"]
    (late,) = await bsc.hear(told[4], stream="catalogue")
    assert late.verdict == "duplicate"


async def test_two_words_for_one_place_freeze_the_stream_and_the_proof_holds_offline(
    federation: Federation, bsc: Gatehouse, tmp_path: Path
) -> None:
    writer = federation.writer("lumi-aif")
    first = writer.peek(capacity(idle=1))
    second = writer.next(capacity(idle=2))
    await bsc.hear(first)
    assert [one.verdict for one in await bsc.hear(second)] == ["equivocation"]
    assert [one.code for one in await bsc.hear(writer.next(capacity(idle=3)))] == ["frozen"]
    raised = await bsc.facts("aifn-federation-alarm-raised-v1")
    assert [(one["alarm"], one["frozen"]) for one in raised] == [("equivocation", True)]
    async with bsc.door_client() as http:
        evidence = (await http.get("/fed/v1/evidence")).text
    file = tmp_path / "evidence.json"
    file.write_text(evidence)
    result = CliRunner().invoke(commands, ["verify", str(file), "--folder", str(federation.folder)])
    assert (result.exit_code, "equivocation lumi-aif/capacity" in result.output) == (0, True), result.output
    file.write_text(evidence.replace(second.raw.decode()[-20:], "A" * 20))
    assert CliRunner().invoke(commands, ["verify", str(file), "--folder", str(federation.folder)]).exit_code == 1


async def test_what_waits_for_a_newer_directory_is_taken_in_once_it_is_there(
    federation: Federation, lumi: Gatehouse, bsc: Gatehouse
) -> None:
    bsc.clock.ahead = timedelta(days=8)
    envelope = await lumi.tell(capacity())
    assert [one.code for one in await bsc.hear(envelope)] == ["directory_expired"]
    assert await look_again(bsc.db, bsc.door) == 0
    ceremony.write_directory(federation.folder, ceremony.read_directory(federation.folder).members, days=20)
    assert await bsc.door.look_into_folder(bsc.db)
    assert await look_again(bsc.db, bsc.door) == 1
    assert len(await bsc.facts()) == 1


async def test_a_page_is_for_members_only_and_signed_for_this_receiver(lumi: Gatehouse, bsc: Gatehouse) -> None:
    await lumi.tell(capacity())
    async with lumi.door_client(local=False) as http:
        path = "/fed/v1/streams/lumi-aif/capacity?epoch=1"
        assert (await http.get(path)).status_code == 401
        assert (await http.get(path, headers={"authorization": "Bearer a.b.c"})).status_code == 401
        for receiver, status in (("ju", 401), ("lumi-aif", 200)):
            token = write_token(bsc.door.keys.signing, "bsc-aif", receiver, bsc.clock())
            answer = await http.get(path, headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == status
        assert [read(one.encode()).header.seq for one in answer.json()["envelopes"]] == [1]
        assert (await http.get("/fed/v1/directory")).status_code == 200
        assert (await http.get("/fed/v1/evidence")).status_code == 403
