"""The JU awards hours on machines of two members: an allocation opens at each, and a job goes where there is room."""

from functools import partial
from typing import Any

import httpx

from aifn_local.federation.gates import until
from aifn_local.federation.handing import RUN_SECONDS, SHORT_SECONDS, patiently
from aifn_local.federation.instance import MemberInstance
from aifn_local.invariants import Check
from aifn_local.people import Refused, sign_in

CALL, GPU_HOURS, MONTHS = "aif-large-scale", 100_000, 6
TITLE = "Weather models for the Baltic"


class Granting:
    """`ju` decides; `full` and `host` operate the machines. The one of `full` has no room when this begins."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        ju: MemberInstance,
        full: MemberInstance,
        host: MemberInstance,
        *,
        patience: float,
    ) -> None:
        self._http = http
        self._ju, self._full, self._host = ju, full, host
        self._patience = patience

    async def play(self) -> list[Check]:
        """From the call to the end of the job. Returns what was to be seen, each with its numbers."""
        ju, full, host = (one.member.id for one in (self._ju, self._full, self._host))
        call, took = await until(self._call, self._patience)
        found = [
            Check(
                f"{full} knows the JU's call with its policy version",
                bool(call),
                f"{CALL}, policy {call['policy_version']}, after {took:.1f} s" if call else "not there",
            )
        ]
        project_id = await self._award()
        for side in (self._full, self._host):
            opened, took = await self._opened(side, project_id)
            amount = await self._amount(side)
            found.append(
                Check(
                    f"an award by an access manager of {ju} opens its allocation at {side.member.id}, in full",
                    opened is not None and opened["granted"] == amount,
                    f"{project_id}: {opened['granted']} of {amount} after {took:.1f} s" if opened else "not opened",
                )
            )
        at_home = await self._allocation(self._ju, project_id)
        found.append(Check(f"at {ju} itself nothing is opened for it", at_home is None, "no project there"))
        closed, took = await self._run(project_id)
        found.append(
            Check(
                f"a job of that project that would wait at {full} runs at {host}, which the award names too",
                closed is not None
                and (closed["outcome"], closed["partition_id"]) == ("completed", _partition(self._host)),
                f"after {took:.0f} s: {closed['outcome']} on {closed['partition_id']}" if closed else "not closed",
            )
        )
        paid, _ = await until(partial(self._charged, project_id), self._patience)
        here = await self._allocation(self._full, project_id) or {}
        found.append(
            Check(
                f"its hours at {host} pay for it, and none at {full}",
                bool(paid) and here.get("charged") == here.get("held") == 0,
                f"{paid} at {host}, {here.get('charged')} charged and {here.get('held')} held at {full}",
            )
        )
        return found

    async def _opened(self, side: MemberInstance, project_id: str) -> tuple[dict[str, Any] | None, float]:
        return await until(lambda: self._allocation(side, project_id), self._patience)

    async def _call(self) -> dict[str, Any] | None:
        reader = await sign_in(self._http, self._full.factory, "pi")
        facts = await reader.pages("registry", "/v1/peers/facts", stream="access", origin=self._ju.member.id)
        return next((dict(one["data"]) for one in facts if one["data"].get("call_id") == CALL), None)

    async def _award(self) -> str:
        """Somebody applies at the JU, and an access manager grants it. Returns the project."""
        pi = await sign_in(self._http, self._ju.factory, "pi")
        body = {
            "call_id": CALL,
            "title": TITLE,
            "organisation": {
                "name": "Puhe Oy",
                "kind": "startup",
                "country": "FI",
                "staff": 12,
                "turnover_eur": 900_000,
            },
            "asks": [{"partition_id": _partition(side), "gpu_hours": GPU_HOURS} for side in (self._full, self._host)],
            "months": MONTHS,
            "statements": {"civilian_use": True, "ai_act_compliance": True},
        }
        filed = await pi.post("scheduler", "/v1/applications", body, key="large-scale")
        manager = await sign_in(self._http, self._ju.factory, "access-manager")
        path = f"/v1/applications/{filed['application_id']}/award"
        awarded = await manager.post("scheduler", path, {"reason": "the panel's decision"}, key="award")
        return str(awarded["award"]["project_id"])

    async def _run(self, project_id: str) -> tuple[dict[str, Any] | None, float]:
        """A job on any partition of the award, submitted where there is no room; it, once it is closed."""
        pi = await sign_in(self._http, self._full.factory, "pi")
        body = {
            "project_id": project_id,
            "name": "within-its-award",
            "nodes": 1,
            "walltime_seconds": SHORT_SECONDS,
            "script": f"#!/bin/sh\nsleep {RUN_SECONDS}\n",
        }
        job_id = str((await patiently(pi, "scheduler", "/v1/jobs", body, key="within-its-award"))["job_id"])

        async def closed() -> dict[str, Any] | None:
            job: dict[str, Any] = await pi.get("scheduler", f"/v1/jobs/{job_id}")
            return job if job["state"] == "closed" else None

        return await until(closed, self._patience)

    async def _charged(self, project_id: str) -> int:
        found = await self._allocation(self._host, project_id)
        return int(found["charged"]) if found else 0

    async def _allocation(self, side: MemberInstance, project_id: str) -> dict[str, Any] | None:
        who = await sign_in(self._http, side.factory, "pi")
        try:
            found = await who.pages("accounting", f"/v1/projects/{project_id}/allocations")
        except Refused as refused:
            if refused.status in (403, 404):
                return None
            raise
        return found[0] if found else None

    async def _amount(self, side: MemberInstance) -> int:
        """What that many GPU-hours are in slice-seconds, by the host's own passport of the partition."""
        who = await sign_in(self._http, side.factory, "pi")
        part = await who.get("registry", f"/v1/partitions/{_partition(side)}")
        return int(GPU_HOURS * 3600 * part["units_per_node"] // part["gpus_per_node"])


def _partition(side: MemberInstance) -> str:
    (site, *_) = side.factory.sites
    return next(iter(site.nodes))


async def knows_share(http: httpx.AsyncClient, reader: MemberInstance, owner: MemberInstance, share: str) -> Any:
    """How much room a pool of another member has, as the reader's registry tells it; None if it is not known."""
    who = await sign_in(http, reader.factory, "pi")
    facts = await who.pages("registry", "/v1/peers/facts", stream="access", origin=owner.member.id)
    return next((one["data"]["headroom"] for one in facts if one["data"].get("share_id") == share), None)
