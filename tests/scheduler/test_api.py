"""The scheduler over HTTP: shapes, permissions, refusals."""

from typing import Any

import pytest
from aifn_common import membership
from aifn_common.database import Database, transaction
from aifn_events.access import AwardGranted
from aifn_scheduler.actions import machines
from aifn_scheduler.api.access import AwardView, CallView, FindingView, ModeView
from aifn_scheduler.api.jobs import JobBody, JobView, PartitionView, ReasonView
from aifn_scheduler.settings import SchedulerSettings
from pydantic import BaseModel

from tests.scheduler.make import allocation, announced, dispatched, machine, project, tick, world
from tests.support.http import Asker

APPLICATION: dict[str, Any] = {
    "call_id": "aif-playground",
    "title": "Speech models",
    "organisation": {"name": "Puhe Oy", "kind": "startup", "country": "FI", "staff": 12, "turnover_eur": 900_000},
    "asks": [{"partition_id": "lumi-g", "gpu_hours": 5000}],
    "months": 2,
    "statements": {"civilian_use": True, "ai_act_compliance": True},
}
JOB: dict[str, Any] = {
    "project_id": "p1",
    "name": "train-3",
    "partition_id": "lumi-g",
    "devices": 8,
    "walltime_seconds": 3600,
    "script": "#!/bin/sh\nsleep 60",
}


@pytest.fixture
async def lumi(db: Database) -> Database:
    """LUMI with ten nodes on each partition; p1 belongs to the persona pi, p2 to somebody else."""
    await world(db)
    async with transaction(db) as tx:
        await membership.remember_project(tx, project("p1", "pi", revision=1))
        await membership.remember_project(tx, project("p2", "eve"))
        await machines.remember_allocation(tx, allocation("p2"))
    return db


async def apply(api: Asker, **values: Any) -> Any:
    return await api.post("/v1/applications", json=APPLICATION | values)


async def queue(api: Asker, **values: Any) -> Any:
    return await api.post("/v1/jobs", json=JOB | values)


async def test_modes_are_listed_by_pages_and_found_by_name(api: Asker) -> None:
    api.as_("applicant")
    first = (await api.get("/v1/modes", params={"limit": 10})).json()
    rest = (await api.get("/v1/modes", params={"limit": 10, "after": first["next"]})).json()
    names = [mode["mode_id"] for mode in first["items"] + rest["items"]]
    assert len(names) == len(set(names)) == 17
    assert rest["next"] is None
    mode = (await api.get("/v1/modes/aif_fast_lane")).json()
    assert mode["gpu_hours"] == "more than 10000, up to 50000"
    assert mode["source"]
    assert (await api.get("/v1/modes/no_such_mode")).status_code == 404


async def test_calls_name_their_policy_version_and_who_decides(api: Asker) -> None:
    calls = (await api.as_("applicant").get("/v1/calls")).json()["items"]
    assert [(one["call_id"], one["technical_check"], one["policy_version"]) for one in calls] == [
        ("aif-fast-lane", "manual", "2025-12"),
        ("aif-playground", "automatic", "2025-12"),
    ]


async def test_a_complete_playground_request_is_awarded_in_the_answer(api: Asker, lumi: Database) -> None:
    answer = await apply(api.as_("applicant"))
    assert answer.status_code == 201
    view = answer.json()
    assert answer.headers["location"] == f"/v1/applications/{view['application_id']}"
    assert view["state"] == "awarded"
    assert view["award"]["project_id"].startswith("aif-")
    assert all(finding["passed"] and finding["source"] for finding in view["findings"])
    assert (await api.get(answer.headers["location"])).json() == view


async def test_a_refused_application_is_an_answer_and_no_error(api: Asker, lumi: Database) -> None:
    answer = await apply(api.as_("applicant"), asks=[{"partition_id": "lumi-g", "gpu_hours": 7000}])
    assert answer.status_code == 201
    view = answer.json()
    assert (view["state"], view["award"]) == ("refused", None)
    (wrong,) = [finding for finding in view["findings"] if not finding["passed"]]
    assert "nearest below is aif_playground (5000), nearest above aif_fast_lane" in wrong["because"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"asks": [{"partition_id": "lumi-g", "gpu_hours": 0}]},
        {"asks": [{"partition_id": "lumi-g", "gpu_hours": -5000}]},
        {"asks": [{"partition_id": "lumi-g", "gpu_hours": 5000.5}]},
        {"asks": [{"partition_id": "lumi-g", "gpu_hours": "5000"}]},
        {"asks": [{"partition_id": "lumi-g", "node_hours": 5000}]},
        {"asks": [{"partition_id": "lumi-g", "gpu_hours": 10**18}]},
        {"asks": []},
        {"asks": [{"partition_id": "lumi-g", "gpu_hours": 2500}] * 2},
        {"months": 0},
        {"title": ""},
        {"title": "a\x00b"},
        {"statements": {"civilian_use": "yes"}},
        {"organisation": {"name": "Puhe Oy", "kind": "startup", "country": "fi", "staff": 12}},
        {"organisation": {"name": "Puhe Oy", "kind": "startup", "country": "FI", "staff": -1}},
        {"unheard": 1},
    ],
)
async def test_a_malformed_application_is_refused_and_leaves_nothing(
    api: Asker, lumi: Database, wrong: dict[str, Any]
) -> None:
    answer = await apply(api.as_("applicant"), **wrong)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert await lumi.fetchval("SELECT count(*) FROM application") == 0


async def test_an_unknown_call_is_not_found(api: Asker, lumi: Database) -> None:
    assert (await apply(api.as_("applicant"), call_id="no-such-call")).status_code == 404


async def test_an_application_repeated_with_its_key_is_filed_once(api: Asker, lumi: Database) -> None:
    api.as_("applicant")
    answers = [
        await api.post("/v1/applications", json=APPLICATION, headers={"idempotency-key": "k1"}) for _ in range(2)
    ]
    assert answers[0].json() == answers[1].json()
    assert len(await announced(lumi, AwardGranted)) == 1


async def test_people_see_their_own_applications_and_the_factory_sees_all(api: Asker, lumi: Database) -> None:
    mine = (await apply(api.as_("applicant", subject="mari"))).json()["application_id"]
    other = (await apply(api.as_("applicant", subject="eve"))).json()["application_id"]
    api.as_("applicant", subject="mari")
    assert [one["application_id"] for one in (await api.get("/v1/applications")).json()["items"]] == [mine]
    assert (await api.get(f"/v1/applications/{other}")).status_code == 403
    api.as_("access-manager")
    found = (await api.get("/v1/applications", params={"state": "awarded"})).json()["items"]
    assert [one["application_id"] for one in found] == [mine, other]
    assert (await api.get("/v1/applications", params={"state": "refused"})).json()["items"] == []
    foreign = api.as_("access-manager", entitlements=["access-manager:factory:jaif"])
    assert (await foreign.get(f"/v1/applications/{mine}")).status_code == 403


async def test_an_access_manager_awards_a_fast_lane_request_once(api: Asker, lumi: Database) -> None:
    asks = [{"partition_id": "lumi-g", "gpu_hours": 20_000}]
    view = (await apply(api.as_("applicant"), call_id="aif-fast-lane", asks=asks)).json()
    assert (view["state"], view["waiting_before"]) == ("eligible", 0)
    path, body = f"/v1/applications/{view['application_id']}/award", {"reason": "scaling shown"}
    assert (await api.post(path, json=body)).status_code == 403
    api.as_("access-manager")
    assert (await api.post(path, json={})).status_code == 422
    done = await api.post(path, json=body, headers={"idempotency-key": "k"})
    assert done.status_code == 200
    assert done.json()["award"]["reason"] == "scaling shown"
    assert (await api.post(path, json=body, headers={"idempotency-key": "k"})).json() == done.json()
    again = await api.post(path, json=body)
    assert (again.status_code, again.json()["code"]) == (409, "already_awarded")
    assert again.json()["project_id"] == done.json()["award"]["project_id"]
    assert (await api.post("/v1/applications/app-none/award", json=body)).status_code == 404
    assert len(await announced(lumi, AwardGranted)) == 1


async def test_a_call_manager_sees_and_awards_the_applications_of_that_call_only(api: Asker, lumi: Database) -> None:
    large = [{"partition_id": "lumi-g", "gpu_hours": 20_000}]
    api.as_("applicant", subject="mari")
    foreign = (await apply(api, call_id="aif-fast-lane", asks=large)).json()["application_id"]
    await lumi.execute("UPDATE call SET technical_check = 'manual' WHERE call_id = 'aif-playground'")
    view = (await apply(api)).json()
    assert view["state"] == "eligible"
    entitlements = ["call-manager:call:aif-playground"]

    async def seen(**query: str) -> list[str]:
        items = (await api.get("/v1/applications", params=query)).json()["items"]
        return [one["application_id"] for one in items]

    api.as_("access-manager", subject="chair", entitlements=entitlements)
    assert await seen() == [view["application_id"]]
    assert await seen(call_id="aif-fast-lane") == []
    assert (await api.get(f"/v1/applications/{foreign}")).status_code == 403
    assert (await api.get(f"/v1/applications/{view['application_id']}")).json() == view
    refused = await api.post(f"/v1/applications/{foreign}/award", json={"reason": "kindness"})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert await announced(lumi, AwardGranted) == []
    done = await api.post(f"/v1/applications/{view['application_id']}/award", json={"reason": "the panel agreed"})
    assert (done.status_code, done.json()["state"]) == (200, "awarded")
    assert [event.application_id for event in await announced(lumi, AwardGranted)] == [view["application_id"]]
    # Who manages one call and has applied under another sees both.
    api.as_("access-manager", subject="mari", entitlements=["applicant", "call-manager:call:no-such-call"])
    assert await seen() == [foreign, view["application_id"]]
    api.as_("access-manager", subject="eve", entitlements=["applicant", *entitlements])
    own = (await apply(api, call_id="aif-fast-lane", asks=large)).json()["application_id"]
    assert await seen() == [view["application_id"], own]


async def test_a_refused_application_cannot_be_awarded(api: Asker, lumi: Database) -> None:
    view = (await apply(api.as_("applicant"), months=9)).json()
    answer = await api.as_("access-manager").post(
        f"/v1/applications/{view['application_id']}/award", json={"reason": "kindness"}
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "not_eligible")


async def test_a_member_queues_a_job_and_reads_why_it_waits(
    api: Asker, lumi: Database, limits: SchedulerSettings
) -> None:
    answer = await queue(api.as_("pi"))
    assert answer.status_code == 201
    view = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{view['job_id']}"
    assert (view["state"], view["devices"], view["outcome"]) == ("queued", 8, None)
    why = (await api.get(f"/v1/jobs/{view['job_id']}/why")).json()
    assert why["summary"] == "waits at place 1 of the queue; no plan has looked at it yet"
    large = (await queue(api, devices=None, nodes=10)).json()
    await tick(lumi, limits)
    placed = (await api.get(f"/v1/jobs/{view['job_id']}")).json()
    assert (placed["state"], placed["slices"], placed["amount"]) == ("placed", 64, 64 * 3600)
    why = (await api.get(f"/v1/jobs/{large['job_id']}/why")).json()
    assert (why["state"], why["waiting_before"], why["planned_partition_id"]) == ("queued", 0, "lumi-g")
    assert why["summary"].startswith("waits at place 1 of the queue; planned on lumi-g at")
    (reason,) = why["reasons"]
    assert (reason["verdict"], reason["waits_for"]) == ("waits_for_slices", [view["job_id"]])


@pytest.mark.parametrize(
    ("wrong", "status", "code"),
    [
        ({"devices": None}, 422, "invalid"),
        ({"nodes": 1}, 422, "invalid"),
        ({"devices": 0}, 422, "invalid"),
        ({"devices": -8}, 422, "invalid"),
        ({"devices": 1.5}, 422, "invalid"),
        ({"devices": 10**12}, 422, "invalid"),
        ({"walltime_seconds": 0}, 422, "invalid"),
        ({"walltime_seconds": 49 * 3600}, 422, "walltime_too_long"),
        ({"script": ""}, 422, "invalid"),
        ({"script": "a\x00"}, 422, "invalid"),
        ({"software_stack": "opencl"}, 422, "invalid"),
        ({"project_id": "../p1"}, 422, "invalid"),
        ({"gpu_hours": 3}, 422, "invalid"),
        ({"partition_id": "lumi-x"}, 422, "unknown_partition"),
        ({"partition_id": "lumi-c", "devices": None, "cores": 1}, 409, "no_allocation"),
        ({"devices": None, "nodes": 3000}, 409, "does_not_fit"),
        ({"software_stack": "cuda"}, 409, "software_stack_mismatch"),
        ({"project_id": "p2"}, 403, "forbidden"),
        ({"project_id": "p9"}, 403, "forbidden"),
    ],
)
async def test_a_job_that_makes_no_sense_is_refused_and_not_queued(
    api: Asker, lumi: Database, wrong: dict[str, Any], status: int, code: str
) -> None:
    answer = await queue(api.as_("pi"), **wrong)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert await lumi.fetchval("SELECT count(*) FROM job") == 0


async def test_the_portability_gate_offers_what_the_project_has(api: Asker, lumi: Database) -> None:
    async with transaction(lumi) as tx:
        await machines.remember_machine(tx, machine("leonardo"))
        await machines.remember_allocation(tx, allocation(partition_id="leonardo-booster"))
    answer = await queue(api.as_("pi"), software_stack="cuda")
    assert answer.json()["alternatives"] == ["leonardo-booster"]


async def test_jobs_are_listed_by_pages_and_only_to_those_they_concern(api: Asker, lumi: Database) -> None:
    api.as_("pi")
    mine = [(await queue(api)).json()["job_id"] for _ in range(3)]
    api.as_("pi", subject="eve")
    other = (await queue(api, project_id="p2")).json()["job_id"]
    api.as_("pi")
    first = (await api.get("/v1/jobs", params={"limit": 2})).json()
    rest = (await api.get("/v1/jobs", params={"limit": 2, "after": first["next"]})).json()
    assert [one["job_id"] for one in first["items"] + rest["items"]] == mine
    assert rest["next"] is None
    assert (await api.get("/v1/jobs", params={"project_id": "p2"})).json()["items"] == []
    for path in (f"/v1/jobs/{other}", f"/v1/jobs/{other}/why"):
        assert (await api.get(path)).status_code == 403
    assert (await api.delete(f"/v1/jobs/{other}")).status_code == 403
    api.as_("operator")
    everybody = (await api.get("/v1/jobs", params={"state": "queued"})).json()["items"]
    assert [one["job_id"] for one in everybody] == [*mine, other]
    assert (await api.get("/v1/jobs", params={"after": "bm9uZQ"})).status_code == 422
    assert (await api.get("/v1/jobs/no-such-job")).status_code == 404


async def test_a_waiting_job_is_taken_back_and_a_finished_one_is_not(
    api: Asker, lumi: Database, limits: SchedulerSettings
) -> None:
    job_id = (await queue(api.as_("pi"))).json()["job_id"]
    gone = (await api.delete(f"/v1/jobs/{job_id}")).json()
    assert (gone["state"], gone["outcome"], gone["reason"]) == ("closed", "cancelled", "asked by pi")
    assert (await api.delete(f"/v1/jobs/{job_id}")).status_code == 200
    sent = await dispatched(lumi, limits)
    asked = (await api.delete(f"/v1/jobs/{sent.job_id}")).json()
    assert (asked["state"], asked["cancel_asked"]) == ("dispatched", True)
    await lumi.execute(
        "UPDATE job SET state = 'closed', outcome = 'completed', closed_at = now() WHERE job_id = $1", sent.job_id
    )
    late = await api.delete(f"/v1/jobs/{sent.job_id}")
    assert (late.status_code, late.json()["code"], late.json()["outcome"]) == (409, "already_closed", "completed")


async def test_partitions_show_what_is_in_service_held_and_planned(
    api: Asker, lumi: Database, limits: SchedulerSettings
) -> None:
    await queue(api.as_("pi"))
    await queue(api, devices=None, nodes=10)
    await tick(lumi, limits)
    await lumi.execute("UPDATE capacity SET observed_at = now() - interval '1 day' WHERE partition_id = 'lumi-c'")
    cpu, gpu = (await api.get("/v1/partitions")).json()["items"]
    assert (cpu["partition_id"], cpu["stale"], cpu["slices_held"]) == ("lumi-c", True, 0)
    assert (gpu["partition_id"], gpu["stale"], gpu["slices_in_service"]) == ("lumi-g", False, 640)
    assert (gpu["jobs_holding"], gpu["slices_held"], gpu["jobs_planned"]) == (1, 64, 1)


async def test_a_newcomer_reads_nothing(api: Asker, lumi: Database) -> None:
    api.as_("newcomer")
    for path in ("/v1/modes", "/v1/calls", "/v1/applications", "/v1/jobs", "/v1/partitions"):
        assert (await api.get(path)).status_code == 403
    assert (await apply(api)).status_code == 403
    del api.headers["authorization"]
    assert (await api.get("/v1/jobs")).status_code == 401


@pytest.mark.parametrize(
    "model", [JobBody, ModeView, CallView, FindingView, AwardView, JobView, ReasonView, PartitionView]
)
def test_the_examples_in_the_description_are_right(model: type[BaseModel]) -> None:
    examples = {name: field.examples[0] for name, field in model.model_fields.items() if field.examples}
    model.model_validate({"project_id": "aif-2026-0117"} | examples)
