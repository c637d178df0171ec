"""A job of a full factory runs at another one, under an agreement that both have entered; then their books are read."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from aifn_local.errors import StackError
from aifn_local.federation.gates import until
from aifn_local.federation.instance import NODES_IN_SERVICE, MemberInstance
from aifn_local.invariants import Check
from aifn_local.people import Person, Refused, sign_in

AMOUNT = 10**9
NUMERATOR, DENOMINATOR = 3, 2
PROJECT, GUESTS, POOL, AGREEMENT = "north-sea-models", "guests", "union-share", "exchange-of-hours"
LONG_SECONDS, SHORT_SECONDS, RUN_SECONDS = 7_200, 3_600, 5
GRANT_PATIENCE_SECONDS = 120.0


class Handing:
    """`home` has a project on a partition that gets full; `receiver` has an idle partition."""

    def __init__(
        self, http: httpx.AsyncClient, home: MemberInstance, receiver: MemberInstance, *, patience: float
    ) -> None:
        self._http = http
        self._home, self._receiver = home, receiver
        self._patience = patience
        (home_site, *_), (site, *_) = home.factory.sites, receiver.factory.sites
        self._home_partition, self._partition = next(iter(home_site.nodes)), next(iter(site.nodes))

    async def play(self) -> list[Check]:
        """Everything from the agreement to the books. Returns what was to be seen, each with its numbers."""
        agreed = await self._agree()
        pi = await sign_in(self._http, self._home.factory, "pi")
        full = await self._submit(pi, "fills-the-machine", NODES_IN_SERVICE, LONG_SECONDS, LONG_SECONDS)
        await until(lambda: self._is(pi, full, "running"), self._patience)
        away = await self._submit(pi, "goes-away", 1, SHORT_SECONDS, RUN_SECONDS)
        closed, took = await until(lambda: self._is(pi, away, "closed"), self._patience)
        here, there = await self._handover(self._home), await self._handover(self._receiver)
        names = (self._home.member.id, self._receiver.member.id)
        found = [
            Check(
                f"a job that would wait at {names[0]} runs at {names[1]} and ends once",
                bool(closed) and closed["outcome"] == "completed",
                f"after {took:.0f} s: {closed['outcome'] if closed else 'not closed'}",
            ),
            Check(
                "both sides know the same end and the same use",
                here.get("state") == there.get("state") == "finished" and here.get("used") == there.get("used"),
                f"{here.get('state')}/{there.get('state')}, used {here.get('used')}/{there.get('used')}",
            ),
        ]
        used = int(here.get("used") or 0)
        paid = -(-used * NUMERATOR // DENOMINATOR)
        charged, _ = await until(lambda: self._charged(pi, paid), self._patience)
        found.append(
            Check(
                f"{names[0]}'s project pays at the agreed rate, and holds nothing for it any more",
                bool(charged),
                f"{used} used there, {paid} charged here" if charged else f"{paid} were to be charged",
            )
        )
        owed, _ = await until(lambda: self._clearing(self._home, agreed["home_resource"], -paid), self._patience)
        due, _ = await until(lambda: self._clearing(self._receiver, agreed["resource"], used), self._patience)
        found.append(
            Check(
                "the clearing accounts of both stand at what is owed and what is due",
                bool(owed) and bool(due) and used > 0,
                f"{-paid} at {names[0]}, {used} at {names[1]}",
            )
        )
        return found

    async def _agree(self) -> dict[str, Any]:
        """Project, guests' project, the receiver's pool, and the agreement on both sides."""
        home_resource = await self._resource(self._home, self._home_partition)
        resource = await self._resource(self._receiver, self._partition)
        await self._project(self._home, PROJECT, home_resource)
        manager = await self._project(self._receiver, GUESTS, resource)
        span = _span()
        pool = {
            "pool_id": POOL,
            "kind": "union",
            "title": "Union's share",
            "funder": "eurohpc-ju",
            "resource": resource,
        }
        await manager.post("accounting", "/v1/pools", pool | span | {"reason": "the exchange"}, key="pool")
        funding = {"amount": AMOUNT, "reason": "the exchange"}
        await manager.post("accounting", f"/v1/pools/{POOL}/funding", funding, key="funding")
        agreed = {
            "agreement_id": AGREEMENT,
            "home": self._home.member.id,
            "receiver": self._receiver.member.id,
            "home_resource": home_resource,
            "resource": resource,
            "numerator": NUMERATOR,
            "denominator": DENOMINATOR,
            "guest_project": GUESTS,
            "pool_id": POOL,
            **span,
        }
        for side in (self._home, self._receiver):
            who = await sign_in(self._http, side.factory, "access-manager")
            await who.post("scheduler", "/v1/exchange-agreements", agreed, key="agreement")
        return agreed

    async def _resource(self, side: MemberInstance, partition: str) -> str:
        reader = await sign_in(self._http, side.factory, "pi")
        return str((await reader.get("registry", f"/v1/partitions/{partition}"))["resource"])

    async def _project(self, side: MemberInstance, name: str, resource: str) -> Person:
        """A project of the host's own share, with an allocation."""
        manager = await sign_in(self._http, side.factory, "allocation-manager")
        body = {"project_id": name, "title": name, "principal_investigator": "pi"}
        await manager.post("accounting", "/v1/projects", body, key=f"project-{name}")
        grant = {"resource": resource, "amount": AMOUNT, "unit": "slice-second", "pool": "national"}
        grant |= _span() | {"reason": "the exchange"}
        await patiently(manager, "accounting", f"/v1/projects/{name}/allocations", grant, key=f"grant-{name}")
        return manager

    async def _submit(self, pi: Person, name: str, nodes: int, walltime: int, runs: int) -> str:
        body = {
            "project_id": PROJECT,
            "name": name,
            "partition_id": self._home_partition,
            "nodes": nodes,
            "walltime_seconds": walltime,
            "script": f"#!/bin/sh\nsleep {runs}\n",
        }
        return str((await patiently(pi, "scheduler", "/v1/jobs", body, key=f"job-{name}"))["job_id"])

    async def _is(self, pi: Person, job_id: str, state: str) -> dict[str, Any] | None:
        job: dict[str, Any] = await pi.get("scheduler", f"/v1/jobs/{job_id}")
        return job if job["state"] == state else None

    async def _handover(self, side: MemberInstance) -> dict[str, Any]:
        who = await sign_in(self._http, side.factory, "access-manager")
        found = await who.pages("scheduler", "/v1/handovers")
        return found[-1] if found else {}

    async def _charged(self, pi: Person, paid: int) -> bool:
        found = await pi.get("accounting", f"/v1/projects/{PROJECT}/allocations")
        return [one["charged"] for one in found["items"]] == [paid] and paid > 0

    async def _clearing(self, side: MemberInstance, resource: str, balance: int) -> bool:
        who = await sign_in(self._http, side.factory, "factory-admin")
        found = await who.pages("accounting", "/v1/clearing")
        return [one["balance"] for one in found if one["resource"] == resource] == [balance]


def _span() -> dict[str, str]:
    now = datetime.now(UTC).replace(microsecond=0)
    return {"starts_at": (now - timedelta(hours=1)).isoformat(), "ends_at": (now + timedelta(days=90)).isoformat()}


async def patiently(who: Person, service: str, path: str, body: dict[str, Any], *, key: str) -> Any:
    """Have something done that needs a fact which may still be on its way."""
    deadline = time.monotonic() + GRANT_PATIENCE_SECONDS
    number = 0
    while True:
        try:
            # A refusal is remembered with its key: another attempt is another wish.
            return await who.post(service, path, body, key=f"{key}-{number}")
        except Refused as refused:
            if refused.status not in (403, 404, 409, 422):
                raise
            if time.monotonic() > deadline:
                raise StackError(f"{service} refuses: {refused}") from None
            number += 1
            await asyncio.sleep(0.5)
