"""The JU awards hours on another member's machine: the call is known everywhere, the allocation opens at the host."""

from typing import Any

import httpx

from aifn_local.federation.gates import until
from aifn_local.federation.instance import MemberInstance
from aifn_local.invariants import Check
from aifn_local.people import Person, Refused, sign_in

CALL, GPU_HOURS, MONTHS = "aif-large-scale", 100_000, 6
TITLE = "Weather models for the Baltic"


class Granting:
    """`ju` decides, `host` operates the machine, at `reader` the public facts are looked at."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        ju: MemberInstance,
        host: MemberInstance,
        reader: MemberInstance,
        *,
        patience: float,
    ) -> None:
        self._http = http
        self._ju, self._host, self._reader = ju, host, reader
        self._patience = patience
        (site, *_) = host.factory.sites
        self._partition = next(iter(site.nodes))

    async def play(self) -> list[Check]:
        """From the call to the allocation. Returns what was to be seen, each with its numbers."""
        ju, host, reader = (one.member.id for one in (self._ju, self._host, self._reader))
        call, took = await until(self._call, self._patience)
        found = [
            Check(
                f"{reader} knows the JU's call with its policy version",
                bool(call),
                f"{CALL}, policy {call['policy_version']}, after {took:.1f} s" if call else "not there",
            )
        ]
        project_id = await self._award()
        pi = await sign_in(self._http, self._host.factory, "pi")
        opened, took = await until(lambda: self._allocation(pi, project_id), self._patience)
        amount = await self._amount(pi)
        found.append(
            Check(
                f"an award by an access manager of {ju} opens its allocation at {host}, in full",
                bool(opened) and opened["granted"] == amount,
                f"{project_id}: {opened['granted']} of {amount} after {took:.1f} s" if opened else "not opened",
            )
        )
        at_home = await self._allocation(await sign_in(self._http, self._ju.factory, "pi"), project_id)
        found.append(Check(f"at {ju} itself nothing is opened for it", at_home is None, "no project there"))
        return found

    async def _call(self) -> dict[str, Any] | None:
        reader = await sign_in(self._http, self._reader.factory, "pi")
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
            "asks": [{"partition_id": self._partition, "gpu_hours": GPU_HOURS}],
            "months": MONTHS,
            "statements": {"civilian_use": True, "ai_act_compliance": True},
        }
        filed = await pi.post("scheduler", "/v1/applications", body, key="large-scale")
        manager = await sign_in(self._http, self._ju.factory, "access-manager")
        path = f"/v1/applications/{filed['application_id']}/award"
        awarded = await manager.post("scheduler", path, {"reason": "the panel's decision"}, key="award")
        return str(awarded["award"]["project_id"])

    async def _allocation(self, who: Person, project_id: str) -> dict[str, Any] | None:
        try:
            found = await who.pages("accounting", f"/v1/projects/{project_id}/allocations")
        except Refused as refused:
            if refused.status in (403, 404):
                return None
            raise
        return found[0] if found else None

    async def _amount(self, who: Person) -> int:
        """What that many GPU-hours are in slice-seconds, by the host's own passport of the partition."""
        part = await who.get("registry", f"/v1/partitions/{self._partition}")
        return int(GPU_HOURS * 3600 * part["units_per_node"] // part["gpus_per_node"])


async def knows_share(http: httpx.AsyncClient, reader: MemberInstance, owner: MemberInstance, share: str) -> Any:
    """How much room a pool of another member has, as the reader's registry tells it; None if it is not known."""
    who = await sign_in(http, reader.factory, "pi")
    facts = await who.pages("registry", "/v1/peers/facts", stream="access", origin=owner.member.id)
    return next((one["data"]["headroom"] for one in facts if one["data"].get("share_id") == share), None)
