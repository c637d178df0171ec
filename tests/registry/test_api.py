"""The registry's HTTP interface: what it shows, what it takes, what it refuses, and to whom."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from aifn_common import clock
from aifn_common.answering import describe_api
from aifn_common.database import Database, transaction
from aifn_registry import first_day, store
from aifn_registry.app import service
from aifn_registry.settings import RegistrySettings
from aifn_registry.views import FactoryRegistration, MachineRegistration

from tests.registry import make
from tests.registry.test_actions import announced, everything
from tests.support.http import Asker, asking

TOO_BIG = 2**63


async def report(db: Database, **values: Any) -> None:
    """Let the registry know a capacity of LUMI-G."""
    async with transaction(db) as tx:
        await store.put_capacity(tx, make.capacity(**values))


async def tag_of(ask: Asker, path: str) -> dict[str, str]:
    """The If-Match header for what is there now."""
    return {"if-match": (await ask.get(path)).headers["etag"]}


# Reading


async def test_every_machine_factory_and_partition_of_the_first_day_can_be_shown(ask: Asker) -> None:
    for machine in first_day.machines():
        assert (await ask.get(f"/v1/machines/{machine.machine_id}")).status_code == 200
        for partition in machine.partitions:
            assert (await ask.get(f"/v1/partitions/{partition.partition_id}")).status_code == 200
    for factory in first_day.factories():
        assert (await ask.get(f"/v1/factories/{factory.factory_id}")).status_code == 200


@pytest.mark.parametrize(
    ("path", "name", "count"),
    [("machines", "machine_id", 30), ("partitions", "partition_id", 33), ("factories", "factory_id", 32)],
)
async def test_pages_together_hold_everything_once_and_in_order(ask: Asker, path: str, name: str, count: int) -> None:
    seen: list[str] = []
    cursor: dict[str, Any] = {}
    for _ in range(20):
        page = (await ask.get(f"/v1/{path}", params={"limit": 7} | cursor)).json()
        seen += [item[name] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = {"after": page["next"]}
    assert seen == sorted(set(seen))
    assert len(seen) == count


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"stage": "installing"}, {"daedalus"}),
        ({"country": "SI", "stage": "operating"}, {"vega"}),
        ({"factory": "lumi-aif"}, {"lumi", "lumi-ai"}),
        ({"gpu_vendor": "amd"}, {"lumi", "alice-recoque"}),
        ({"retired": "true"}, set()),
    ],
)
async def test_machines_are_found_by_stage_country_factory_and_vendor(
    ask: Asker, query: dict[str, str], expected: set[str]
) -> None:
    page = (await ask.get("/v1/machines", params=query)).json()
    assert {item["machine_id"] for item in page["items"]} == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"kind": "antenna", "country": "CH"}, {"ch-antenna"}),
        ({"country": "FI", "sector": "health_life_sciences"}, {"lumi-aif"}),
        ({"country": "FI", "sector": "agriculture_food"}, set()),
        ({"country": "LT", "sector": "health_life_sciences"}, set()),
    ],
)
async def test_factories_are_found_by_kind_country_and_sector(
    ask: Asker, query: dict[str, str], expected: set[str]
) -> None:
    page = (await ask.get("/v1/factories", params=query)).json()
    assert {item["factory_id"] for item in page["items"]} == expected


async def test_a_partition_shows_how_its_time_is_counted(ask: Asker) -> None:
    shown = (await ask.get("/v1/partitions/lumi-g")).json()
    counted = ("resource", "units_per_node", "slices_per_device", "slices_per_gpu", "slices_per_core")
    assert [shown[name] for name in counted] == ["lumi/lumi-g/gpu-time", 64, 8, 16, 1]
    assert (shown["slice_seconds_per_node_hour"], shown["slice_seconds_per_gpu_hour"]) == (230_400, 57_600)
    assert (shown["devices"], shown["unit_fixed"], shown["capacity"]) == (23_824, True, None)


async def test_figures_are_exact_dated_and_have_a_source(ask: Asker) -> None:
    figures = (await ask.get("/v1/machines/jupiter")).json()["figures"]
    assert figures[0]["value"] == "1000000000000000000"
    assert all(figure["as_of"] and figure["source"] for figure in figures)


async def test_capacity_is_shown_with_its_age_and_source_and_grows_stale(
    ask: Asker, seeded: Database, settings: RegistrySettings
) -> None:
    now = clock.now()
    await report(seeded, observed_at=now - timedelta(seconds=settings.capacity_fresh_seconds + 1), received_at=now)
    page = (await ask.get("/v1/partitions", params={"machine": "lumi"})).json()
    assert [one["capacity"] and one["capacity"]["fresh"] for one in page["items"]] == [None, False]
    await report(seeded, observed_at=now - timedelta(seconds=42), received_at=now)
    shown = (await ask.get("/v1/partitions/lumi-g")).json()["capacity"]
    assert 42 <= shown["age_seconds"] < 52
    assert (shown["fresh"], shown["source"], shown["nodes_in_service"]) == (True, "urn:aifn:lumi-aif:siteagent", 2900)


async def test_with_a_simulated_clock_a_report_stays_fresh_for_as_long_in_real_time(
    seeded: Database, settings: RegistrySettings
) -> None:
    started = clock.now()
    simulated = settings.model_copy(update={"clock_epoch": make.NOON, "clock_started": started, "clock_factor": 3600})
    clock.use(simulated.clock())
    await report(seeded, observed_at=make.NOON, received_at=make.NOON)
    async with asking(service, seeded, simulated) as ask:
        shown = (await ask.as_("applicant").get("/v1/partitions/lumi-g")).json()["capacity"]
    assert shown["fresh"]
    assert (simulated.capacity_fresh, settings.capacity_fresh) == (timedelta(hours=300), timedelta(seconds=300))


async def test_what_is_known_already_is_not_sent_again(ask: Asker) -> None:
    for path in ("/v1/machines/lumi", "/v1/factories/lumi-aif"):
        first = await ask.get(path)
        again = await ask.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_the_sector_matrix_says_who_serves_what_and_whom_it_does_not_know(ask: Asker) -> None:
    matrix = (await ask.get("/v1/sectors")).json()
    health = next(one for one in matrix["sectors"] if one["sector_id"] == "health_life_sciences")
    assert len(matrix["sectors"]) == 10
    assert "FI" in health["countries"]
    assert "lumi-aif" in health["factory_ids"]
    assert "LT" not in matrix["countries_known"]
    assert "litai" not in {name for one in matrix["sectors"] for name in one["factory_ids"]}


async def test_the_comparison_says_when_and_whether_it_was_verified(ask: Asker) -> None:
    shown = (await ask.get("/v1/comparison")).json()
    assert shown["private_clusters"]["verified"] is False
    assert shown["private_clusters"]["as_of"] == "2024-09"
    assert shown["private_clusters"]["rows"][0]["fp16_flops"] == "6.75E+20"


# Changing


async def test_an_operator_registers_changes_and_retires_a_machine(ask: Asker, seeded: Database) -> None:
    made = await ask.post("/v1/machines", json=make.machine_words())
    assert (made.status_code, made.headers["location"], made.headers["etag"]) == (201, "/v1/machines/puhti", '"r0"')
    assert made.json()["partitions"][0]["resource"] == "puhti/puhti-gpu/gpu-time"
    words = make.machine_words(name="Puhti 2")
    del words["machine_id"]
    changed = await ask.put("/v1/machines/puhti", json=words, headers={"if-match": '"r0"'})
    assert (changed.status_code, changed.headers["etag"], changed.json()["name"]) == (200, '"r1"', "Puhti 2")
    gone = await ask.delete("/v1/machines/puhti", params={"reason": "worn out"}, headers={"if-match": '"r1"'})
    assert (gone.status_code, gone.json()["retired"], gone.json()["retired_reason"]) == (200, True, "worn out")
    assert (await ask.get("/v1/machines/puhti")).json()["revision"] == 2
    assert [said["revision"] for _, said in await announced(seeded)] == [0, 1, 2]
    listed = (await ask.get("/v1/machines", params={"limit": 200})).json()["items"]
    assert "puhti" not in {one["machine_id"] for one in listed}
    assert (await ask.get("/v1/partitions", params={"machine": "puhti"})).json()["items"] == []


async def test_an_administrator_registers_changes_and_retires_a_factory(ask: Asker, seeded: Database) -> None:
    ask.as_("factory-admin", entitlements=["factory-admin:factory:new-aif"])
    words = make.factory_words(linked_factory_ids=["lumi-aif"], sectors=["public_sector"], selected_on="2026-11-01")
    made = await ask.post("/v1/factories", json=words)
    assert (made.status_code, made.headers["location"]) == (201, "/v1/factories/new-aif")
    del words["factory_id"]
    changed = await ask.put("/v1/factories/new-aif", json=words | {"sectors": None}, headers={"if-match": '"r0"'})
    assert (changed.status_code, changed.json()["sectors"], changed.json()["selected_on"]) == (200, None, "2026-11-01")
    gone = await ask.delete("/v1/factories/new-aif", params={"reason": "merged"}, headers={"if-match": '"r1"'})
    assert (gone.status_code, gone.json()["retired"]) == (200, True)
    assert [said["revision"] for _, said in await announced(seeded)] == [0, 1, 2]


async def test_the_same_registration_sent_twice_with_one_key_happens_once(ask: Asker, seeded: Database) -> None:
    key = {"idempotency-key": "k1"}
    first = await ask.post("/v1/machines", json=make.machine_words(), headers=key)
    again = await ask.post("/v1/machines", json=make.machine_words(), headers=key)
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert len(await announced(seeded)) == 1


async def test_what_a_machine_shows_can_be_sent_back_as_its_description(ask: Asker) -> None:
    shown = (await ask.get("/v1/machines/lumi")).json()
    partition_fields = MachineRegistration.model_fields["partitions"].annotation
    assert partition_fields is not None
    known = set(partition_fields.__args__[0].model_fields)
    words = {name: value for name, value in shown.items() if name in MachineRegistration.model_fields}
    words["partitions"] = [{k: v for k, v in one.items() if k in known} for one in shown["partitions"]]
    del words["machine_id"]
    sent = await ask.put("/v1/machines/lumi", json=words, headers={"if-match": '"r0"'})
    assert sent.status_code == 200
    assert sent.json() == shown | {"revision": 1}


# Refusing


def refused(answer: Any, status: int, code: str) -> bool:
    """Whether an answer is this problem document."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return True


@pytest.mark.parametrize("path", ["machines/lumo", "partitions/lumi-x", "factories/nowhere"])
async def test_what_is_not_there_is_not_found(ask: Asker, path: str) -> None:
    assert refused(await ask.get(f"/v1/{path}"), 404, "not_found")


async def test_changing_what_is_not_there_is_not_found(ask: Asker) -> None:
    words = make.machine_words()
    del words["machine_id"]
    headers = {"if-match": '"r0"'}
    assert refused(await ask.put("/v1/machines/lumo", json=words, headers=headers), 404, "not_found")
    gone = await ask.delete("/v1/machines/lumo", params={"reason": "worn out"}, headers=headers)
    assert refused(gone, 404, "not_found")


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodes": -1},
        {"nodes": 100_001},
        {"nodes": TOO_BIG},
        {"nodes": 1.5},
        {"nodes": "80"},
        {"nodes": True},
        {"devices_per_node": 257},
        {"cores_per_node": 4097},
        {"cores_per_node": 10**400},
        {"gpu_memory_gb": 0},
        {"kind": "abacus"},
        {"stage": "finished"},
        {"partition_id": "Puhti GPU"},
        {"partition_id": "p" * 64},
        {"name": ""},
        {"name": "a\x00b"},
        {"name": "n" * 201},
        {"source": []},
        {"units_per_node": 7},
        {"figures": [{"name": "top500_rank", "value": 1.5, "as_of": "2024-11", "source": ["x"]}]},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
async def test_an_absurd_partition_is_refused_and_changes_nothing(
    ask: Asker, seeded: Database, wrong: dict[str, Any]
) -> None:
    before = await everything(seeded)
    words = make.machine_words(partitions=[make.partition_words("puhti-gpu") | wrong])
    assert refused(await ask.post("/v1/machines", json=words), 422, "invalid")
    assert await everything(seeded) == before


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"machine_id": "lumi/g"}, "invalid"),
        ({"country": "Finland"}, "invalid"),
        ({"union_share_pct": 101}, "invalid"),
        ({"union_share_pct": 50, "national_share_pct": 40}, "invalid"),
        ({"colour": "blue"}, "invalid"),
        ({"factory_ids": ["lumi-aif", "nowhere"]}, "unknown_reference"),
        ({"partitions": [make.partition_words("p", gpus_per_node=3)]}, "uneven_gpus"),
        ({"partitions": [make.partition_words("p")] * 101}, "invalid"),
    ],
)
async def test_an_absurd_machine_is_refused_and_changes_nothing(
    ask: Asker, seeded: Database, wrong: dict[str, Any], code: str
) -> None:
    before = await everything(seeded)
    assert refused(await ask.post("/v1/machines", json=make.machine_words() | wrong), 422, code)
    assert await everything(seeded) == before


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"machine_id": "x"}', b"\xff"], ids=repr)
async def test_a_body_that_is_no_machine_is_refused(ask: Asker, body: bytes) -> None:
    answer = await ask.post("/v1/machines", content=body, headers={"content-type": "application/json"})
    assert refused(answer, 400 if body == b"\xff" else 422, "http_error" if body == b"\xff" else "invalid")


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("partitions", {"min_devices": 0}),
        ("partitions", {"min_nodes": TOO_BIG}),
        ("partitions", {"min_gpu_memory_gb": "many"}),
        ("partitions", {"kind": "abacus"}),
        ("partitions", {"gpu_vendor": "a\x00b"}),
        ("machines", {"limit": 201}),
        ("machines", {"limit": -1}),
        ("machines", {"after": "A"}),
        ("machines", {"after": "AAAA"}),
        ("machines", {"country": "fi"}),
        ("factories", {"sector": "Health & Life"}),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(ask: Asker, path: str, query: dict[str, Any]) -> None:
    assert refused(await ask.get(f"/v1/{path}", params=query), 422, "invalid")


async def test_what_is_registered_already_is_refused_and_changes_nothing(ask: Asker, seeded: Database) -> None:
    before = await everything(seeded)
    again = await ask.post("/v1/machines", json=make.machine_words("lumi"))
    assert refused(again, 409, "machine_exists")
    assert again.json()["machine_id"] == "lumi"
    taken = make.machine_words(partitions=[make.partition_words("lumi-g")])
    assert refused(await ask.post("/v1/machines", json=taken), 409, "partition_exists")
    ask.as_("factory-admin")
    assert refused(await ask.post("/v1/factories", json=make.factory_words("lumi-aif")), 409, "factory_exists")
    assert await everything(seeded) == before


async def test_a_change_made_from_an_old_revision_is_refused(ask: Asker, seeded: Database) -> None:
    words = make.machine_words()
    await ask.post("/v1/machines", json=words)
    del words["machine_id"]
    old = await tag_of(ask, "/v1/machines/puhti")
    assert (await ask.put("/v1/machines/puhti", json=words, headers=old)).status_code == 200
    before = await everything(seeded)
    reason = {"reason": "worn out"}
    assert refused(await ask.put("/v1/machines/puhti", json=words, headers=old), 412, "precondition_failed")
    assert refused(await ask.put("/v1/machines/puhti", json=words), 428, "precondition_required")
    assert refused(await ask.delete("/v1/machines/puhti", params=reason, headers=old), 412, "precondition_failed")
    assert refused(await ask.delete("/v1/machines/puhti", headers=old), 422, "invalid")
    assert await everything(seeded) == before


async def test_of_two_changes_made_from_one_revision_at_the_same_time_one_is_refused(
    ask: Asker, seeded: Database
) -> None:
    words = make.machine_words()
    await ask.post("/v1/machines", json=words)
    del words["machine_id"]
    headers = {"if-match": '"r0"'}
    sent = [ask.put("/v1/machines/puhti", json=words | {"name": name}, headers=headers) for name in ("A", "B", "C")]
    assert sorted(answer.status_code for answer in await asyncio.gather(*sent)) == [200, 412, 412]
    assert [said["revision"] for _, said in await announced(seeded)] == [0, 1]


@pytest.mark.parametrize("reason", ["", "a\x00b", "r" * 2001])
async def test_a_retirement_without_a_reason_people_can_read_is_refused(ask: Asker, reason: str) -> None:
    headers = {"if-match": '"r0"'}
    assert refused(await ask.delete("/v1/machines/lumi", params={"reason": reason}, headers=headers), 422, "invalid")
    assert (await ask.get("/v1/machines/lumi")).json()["retired"] is False


async def test_slices_that_are_on_the_books_cannot_be_counted_anew(ask: Asker, seeded: Database) -> None:
    words = make.machine_words()
    await ask.post("/v1/machines", json=words)
    del words["machine_id"]
    before = await everything(seeded)
    recounted = words | {"partitions": [make.partition_words("puhti-gpu", cores_per_node=64)]}
    headers = {"if-match": '"r0"'}
    answer = await ask.put("/v1/machines/puhti", json=recounted, headers=headers)
    assert refused(answer, 409, "unit_fixed")
    assert answer.json()["units_per_node"] == 40
    assert refused(
        await ask.put("/v1/machines/puhti", json=words | {"partitions": []}, headers=headers), 409, "unit_fixed"
    )
    assert await everything(seeded) == before


async def test_what_is_retired_cannot_be_retired_again(ask: Asker) -> None:
    reason = {"reason": "worn out"}
    await ask.delete("/v1/machines/lumi", params=reason, headers={"if-match": '"r0"'})
    again = await ask.delete("/v1/machines/lumi", params=reason, headers={"if-match": '"r1"'})
    assert refused(again, 409, "already_retired")


async def test_an_antenna_stays_an_antenna(ask: Asker) -> None:
    ask.as_("factory-admin", entitlements=["factory-admin:factory:ch-antenna"])
    words = make.factory_words("ch-antenna")
    del words["factory_id"]
    answer = await ask.put("/v1/factories/ch-antenna", json=words, headers={"if-match": '"r0"'})
    assert refused(answer, 422, "invalid")


# Who may


async def test_an_operator_of_another_factory_changes_nothing(ask: Asker, seeded: Database) -> None:
    ask.as_("operator", entitlements=["operator:factory:jaif", "factory-admin:factory:jaif"])
    before = await everything(seeded)
    machine, factory = make.machine_words(), make.factory_words()
    headers = {"if-match": '"r0"'}
    assert refused(await ask.post("/v1/machines", json=machine), 403, "forbidden")
    assert refused(await ask.post("/v1/factories", json=factory), 403, "forbidden")
    del machine["machine_id"], factory["factory_id"]
    for path, words in (("machines/lumi", machine), ("factories/lumi-aif", factory)):
        assert refused(await ask.put(f"/v1/{path}", json=words, headers=headers), 403, "forbidden")
        gone = await ask.delete(f"/v1/{path}", params={"reason": "envy"}, headers=headers)
        assert refused(gone, 403, "forbidden")
    assert await everything(seeded) == before


async def test_an_operator_cannot_give_a_machine_away_or_take_one_over(ask: Asker, seeded: Database) -> None:
    words = make.machine_words(factory_ids=["jaif"])
    del words["machine_id"]
    headers = {"if-match": '"r0"'}
    given_away = await ask.put("/v1/machines/lumi", json=words, headers=headers)
    assert refused(given_away, 403, "forbidden")
    taken_over = await ask.put("/v1/machines/jupiter", json=words | {"factory_ids": ["lumi-aif"]}, headers=headers)
    assert refused(taken_over, 403, "forbidden")
    assert await announced(seeded) == []


async def test_an_operator_of_one_of_several_factories_may_change_the_machine_they_share(ask: Asker) -> None:
    made = await ask.post("/v1/machines", json=make.machine_words(factory_ids=["lumi-aif", "jaif"]))
    assert made.status_code == 201
    ask.as_("operator", entitlements=["operator:factory:jaif"])
    words = make.machine_words(factory_ids=["lumi-aif", "jaif"])
    del words["machine_id"]
    assert (await ask.put("/v1/machines/puhti", json=words, headers={"if-match": '"r0"'})).status_code == 200


async def test_a_machine_of_nobody_is_looked_after_by_whoever_runs_the_registry(ask: Asker) -> None:
    headers, reason = {"if-match": '"r0"'}, {"reason": "worn out"}
    ask.as_("operator", entitlements=["operator:factory:jaif"])
    assert refused(await ask.delete("/v1/machines/deucalion", params=reason, headers=headers), 403, "forbidden")
    ask.as_("operator", entitlements=["operator:factory:lumi-aif"])
    assert (await ask.delete("/v1/machines/deucalion", params=reason, headers=headers)).status_code == 200


async def test_an_applicant_reads_and_a_stranger_does_not(ask: Asker) -> None:
    paths = ["machines", "machines/lumi", "partitions", "partitions/lumi-g", "factories", "factories/jaif", "sectors"]
    for path in [*paths, "comparison"]:
        assert (await ask.as_("applicant").get(f"/v1/{path}")).status_code == 200
        assert refused(await ask.as_("newcomer").get(f"/v1/{path}"), 403, "forbidden")
        del ask.headers["authorization"]
        assert refused(await ask.get(f"/v1/{path}"), 401, "unauthenticated")


# What the document promises


def test_every_route_is_described_and_names_its_problems() -> None:
    document = describe_api(service).openapi()
    ours = {path: item for path, item in document["paths"].items() if "dead-letters" not in path}
    assert len(ours) == 9
    for item in ours.values():
        for operation in item.values():
            assert operation["summary"]
            assert operation["description"]
            assert operation["tags"]
            for status, answer in operation["responses"].items():
                if status.startswith("4"):
                    assert "application/problem+json" in answer["content"]
    changes = [op for item in ours.values() for method, op in item.items() if method in ("put", "delete")]
    assert len(changes) == 4
    for change in changes:
        assert {"403", "404", "412", "428"} <= set(change["responses"])
        assert "If-Match" in {one["name"] for one in change["parameters"]}


@pytest.mark.parametrize("kind", [MachineRegistration, FactoryRegistration])
async def test_the_examples_of_the_document_can_be_sent_as_they_are(
    ask: Asker, kind: type[MachineRegistration] | type[FactoryRegistration]
) -> None:
    words = {name: field.examples[0] for name, field in kind.model_fields.items() if field.examples}
    ask.as_("factory-admin")
    path, code = ("machines", "machine_exists") if kind is MachineRegistration else ("factories", "factory_exists")
    assert refused(await ask.post(f"/v1/{path}", json=words), 409, code)
