"""The demo of a federation: what members learn of one another, and what they notice and repair when the way breaks.

Nothing is looked up in a database: all that is told comes from the members' APIs and gates.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from aifn_local import processes
from aifn_local.federation.gates import View, disagreements, look, look_everywhere, until
from aifn_local.federation.granting import Granting, knows_share
from aifn_local.federation.handing import POOL, Handing
from aifn_local.federation.instance import MemberInstance
from aifn_local.federation.start import Federation
from aifn_local.federation.tamper import alter_newest
from aifn_local.invariants import Check
from aifn_local.people import Person, sign_in

PATIENCE_SECONDS = 300.0
Say = Callable[[str], None]


@dataclass
class Outcome:
    """All that the report tells."""

    checks: list[Check] = field(default_factory=list)
    views: dict[str, View] = field(default_factory=dict)
    described: dict[str, int] = field(default_factory=dict)
    peak_mb: int = 0

    @property
    def good(self) -> bool:
        """Whether every check holds."""
        return bool(self.checks) and all(one.holds for one in self.checks)


class Demo:
    """One run on a federation that is up. `home` seeks, `owner` has the data, `third` has room, `ju` awards."""

    def __init__(self, federation: Federation, home: str, owner: str, third: str, ju: str, say: Say) -> None:
        self._federation = federation
        self._home, self._owner, self._third = (federation.instances[name] for name in (home, owner, third))
        self._ju = federation.instances[ju]
        self._say = say
        self._http = httpx.AsyncClient(timeout=10, trust_env=False)
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        """The whole story, step by step."""
        async with self._http:
            await self._everyone_is_known()
            await self._discover()
            await self._hand_over()
            await self._award()
            await self._relay_stops()
            await self._member_is_cut_off()
            await self._relay_tampers()
            await self._all_agree()
        return self.outcome

    async def _everyone_is_known(self) -> None:
        self._say("every member hears every other")
        instances = self._federation.instances

        async def all_heard() -> bool:
            views = await look_everywhere(self._http, instances)
            return all(set(view.last_head_seconds) >= set(instances) for view in views.values())

        heard, took = await until(all_heard, PATIENCE_SECONDS)
        self._check("each member has heard a signed head of every other", bool(heard), f"after {took:.0f} s")

    async def _discover(self) -> None:
        home, owner, third = (one.member.id for one in (self._home, self._owner, self._third))
        self._say(f"a project of {home} looks for data and for a machine")
        took = await self._describe("north-sea-weather", "North Sea weather, hourly, 1990 to 2025")
        self._check(
            f"a dataset of {owner} is found at {home} as its owner described it", took is not None, _after(took)
        )
        pi = await sign_in(self._http, self._home.factory, "pi")

        async def sees_machines() -> set[str]:
            facts = await pi.pages("registry", "/v1/peers/facts", stream="capacity")
            told = {
                fact["origin"]
                for fact in facts
                if "free_nodes" in str(fact["data"]) or "partition" in str(fact["data"])
            }
            return told if told >= {owner, third} else set()

        machines, took_machines = await until(sees_machines, PATIENCE_SECONDS)
        self._check(
            f"{home} sees what {owner} and {third} have in service", bool(machines), f"after {took_machines:.1f} s"
        )

    async def _hand_over(self) -> None:
        home, third = self._home.member.id, self._third.member.id
        self._say(f"{home} is full: a job goes to {third}, under an agreement of both")
        for one in await Handing(self._http, self._home, self._third, patience=PATIENCE_SECONDS).play():
            self._check(one.statement, one.holds, one.numbers)

    async def _award(self) -> None:
        home, owner, third = (one.member.id for one in (self._home, self._owner, self._third))
        self._say(f"the JU awards hours on machines of {home} and {owner}")
        for one in await Granting(self._http, self._ju, self._home, self._owner, patience=PATIENCE_SECONDS).play():
            self._check(one.statement, one.holds, one.numbers)

        async def headroom() -> Any:
            return await knows_share(self._http, self._home, self._third, POOL)

        left, took = await until(headroom, PATIENCE_SECONDS)
        self._check(f"{home} knows the headroom of {third}'s pool", left is not None, f"{left}, {_after(took)}")

    async def _relay_stops(self) -> None:
        transport = self._federation.transport
        alias = next(iter(transport.relays))
        owner, home = self._owner.member.id, self._home.member.id
        self._say(f"{alias} stops, as in a power cut")
        await asyncio.to_thread(transport.stop_relay, alias)
        noticed = not processes.answers("127.0.0.1", int(transport.bootstrap(alias).rpartition(":")[2]))
        before = (await look(self._http, self._home)).count(owner, "catalogue", "duplicate")
        took = await self._describe("baltic-ice", "Baltic ice charts")
        self._check(
            f"with {alias} away {home} learns of a new dataset of {owner} by the other way",
            noticed and took is not None,
            _after(took),
        )
        self._say(f"{alias} comes back")
        await asyncio.to_thread(transport.return_relay, alias)

        async def second_copy() -> bool:
            return (await look(self._http, self._home)).count(owner, "catalogue", "duplicate") > before

        again, took_again = await until(second_copy, PATIENCE_SECONDS)
        self._check(
            f"{alias} then brings what it had missed, and {home} drops the copy", bool(again), _after(took_again)
        )

    async def _member_is_cut_off(self) -> None:
        """Mirror and gate of the owner go away; its services work on and know nothing of it."""
        owner, home, third = (one.member.id for one in (self._owner, self._home, self._third))
        gate = self._owner.programs()["fedgate"]
        self._say(f"{owner} is cut off: nothing leaves, nothing arrives")
        cut_at = datetime.now(UTC)
        await asyncio.to_thread(self._federation.transport.cut_off, self._owner.member)
        await asyncio.to_thread(gate.stop)
        steward = await sign_in(self._http, self._owner.factory, "data-steward")
        await self._register(steward, "fjord-depths", "Depths of fjords")

        async def both_noticed() -> bool:
            views = [await look(self._http, one) for one in (self._home, self._third)]
            return all(view.alarm(owner, "silence", cut_at) is not None for view in views)

        noticed, took = await until(both_noticed, PATIENCE_SECONDS)
        self._check(f"{home} and {third} notice that {owner} is silent", bool(noticed), _after(took))
        self._check(
            f"meanwhile nobody at {home} believes anything of {owner} that did not arrive",
            "fjord-depths" not in await self._known_datasets(self._home, owner),
            "the newest dataset is not there",
        )
        self._say(f"{owner} returns")
        gate.launch()
        await asyncio.to_thread(self._federation.transport.reconnect, self._owner.member)
        await self._owner.wait_ready()
        here, took_back = await until(lambda: self._has(self._home, "fjord-depths"), PATIENCE_SECONDS)
        self._check(f"what {owner} described while it was away arrives at {home}", bool(here), _after(took_back))

        async def alarm_ended() -> bool:
            views = [await look(self._http, one) for one in (self._home, self._third)]
            found = [view.alarm(owner, "silence", cut_at) for view in views]
            return all(one is not None and one.ended_at is not None for one in found)

        ended, took_end = await until(alarm_ended, PATIENCE_SECONDS)
        self._check(f"the alarms about {owner} end by themselves", bool(ended), _after(took_end))

    async def _relay_tampers(self) -> None:
        transport, owner = self._federation.transport, self._owner.member.id
        alias = list(transport.relays)[-1]
        readers = (self._home, self._third)
        self._say(f"{alias} alters a message of {owner}")
        took = await self._describe("pollen-counts", "Pollen counts of five cities")
        before = [(await look(self._http, one)).count(owner, "catalogue", "quarantined") for one in readers]
        port = int(transport.bootstrap(alias).rpartition(":")[2])
        administrator = transport.relays[alias].administrator(port)
        await alter_newest(administrator, f"{owner}.aifn-out-catalogue-v1")

        async def caught() -> bool:
            now = [(await look(self._http, one)).count(owner, "catalogue", "quarantined") for one in readers]
            return all(after > earlier for after, earlier in zip(now, before, strict=True))

        noticed, took_notice = await until(caught, PATIENCE_SECONDS)
        names = " and ".join(one.member.id for one in readers)
        self._check(f"the altered copy is set aside unread at {names}", bool(noticed), _after(took_notice))
        genuine = await self._has(self._home, "pollen-counts", title="Pollen counts of five cities")
        again = await self._describe("tide-tables", "Tide tables of the Wadden Sea")
        self._check(
            f"what {owner} really said stands, and its next dataset arrives",
            took is not None and bool(genuine) and again is not None,
            _after(again),
        )

    async def _all_agree(self) -> None:
        self._say("every member's copy is compared with its owner's log")

        async def agreed() -> bool:
            self.outcome.views = await look_everywhere(self._http, self._federation.instances)
            return not disagreements(self.outcome.views)

        _, took = await until(agreed, PATIENCE_SECONDS)
        left = disagreements(self.outcome.views)
        streams = sum(len(view.streams) for view in self.outcome.views.values())
        self._check(
            "every copy has its owner's place, keys and digest, without gaps",
            not left,
            "; ".join(left[:3]) or f"{streams} streams, {_after(took)}",
        )
        owner = self._owner.member.id
        known = await self._known_datasets(self._home, owner)
        missing = set(self.outcome.described) - known
        self._check(
            "no dataset was lost on the way", not missing, f"{len(known)} of {len(self.outcome.described)} there"
        )

    async def _describe(self, name: str, title: str) -> float | None:
        """The owner describes a dataset; seconds until home's registry shows it, None if it never does."""
        steward = await sign_in(self._http, self._owner.factory, "data-steward")
        await self._register(steward, name, title)
        found, took = await until(lambda: self._has(self._home, name, title=title), PATIENCE_SECONDS)
        return took if found else None

    async def _register(self, steward: Person, name: str, title: str) -> None:
        body = {
            "dataset_id": name,
            "title": title,
            "description": "made for the demo of the federation",
            "licence": "CC-BY-4.0",
            "sensitivity": "open",
            "grade": "open",
            "contact": "datalab@example.eu",
            "residency": ["ES"],
            "location": f"s3://data/{name}/",
            "size_bytes": 10**9,
        }
        await steward.post("datalab", "/v1/datasets", body, key=f"describe-{name}")
        self.outcome.described[name] = len(self.outcome.described) + 1

    async def _has(self, reader: MemberInstance, name: str, title: str | None = None) -> bool:
        facts = await self._facts(reader, self._owner.member.id)
        return any(fact["data"]["dataset_id"] == name and title in (None, fact["data"]["title"]) for fact in facts)

    async def _known_datasets(self, reader: MemberInstance, owner: str) -> set[str]:
        return {str(fact["data"]["dataset_id"]) for fact in await self._facts(reader, owner)}

    async def _facts(self, reader: MemberInstance, owner: str) -> list[Mapping[str, Any]]:
        pi = await sign_in(self._http, reader.factory, "pi")
        return list(await pi.pages("registry", "/v1/peers/facts", stream="catalogue", origin=owner))

    def _check(self, statement: str, holds: bool, numbers: str) -> None:
        self.outcome.checks.append(Check(statement, holds, numbers))
        self._say(f"  {'yes' if holds else 'NO '}  {statement} ({numbers})")


def _after(seconds: float | None) -> str:
    return "never" if seconds is None else f"after {seconds:.1f} s"
