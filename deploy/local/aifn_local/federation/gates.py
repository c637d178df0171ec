"""What the members' gates say of one another: asked over HTTP, as `aifn fed status` does."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

import httpx
from pydantic import BaseModel

from aifn_local.errors import StackError
from aifn_local.federation.instance import MemberInstance

# A head moves every few seconds by itself, and a directory has the threshold of root keys for an owner.
OWN_PACE = ("head", "directory")


class Stream(BaseModel):
    """How far one gate is with one stream of one member, its own included."""

    origin: str
    stream: str
    epoch: int
    seq: int
    missing: int
    waiting: int
    keys: int
    digest: str
    frozen: bool
    last_event_seconds: float
    verdicts: dict[str, int]


class Alarm(BaseModel):
    """Something a gate has noticed."""

    origin: str
    stream: str
    alarm: str
    detail: str
    raised_at: datetime
    ended_at: datetime | None


class View(BaseModel):
    """Everything one gate knows of all members."""

    member: str
    streams: list[Stream]
    last_head_seconds: dict[str, float]
    alarms: list[Alarm]

    def count(self, origin: str, stream: str, verdict: str) -> int:
        """How often a verdict was given."""
        found = [one.verdicts.get(verdict, 0) for one in self.streams if (one.origin, one.stream) == (origin, stream)]
        return sum(found)

    def alarm(self, origin: str, kind: str, since: datetime) -> Alarm | None:
        """An alarm about a member that was raised since then, open ones first."""
        found = [one for one in self.alarms if (one.origin, one.alarm) == (origin, kind) and one.raised_at >= since]
        return min(found, key=lambda one: one.ended_at is not None, default=None)


async def look(http: httpx.AsyncClient, instance: MemberInstance) -> View:
    """What one gate says now. Raises StackError when it does not answer."""
    try:
        answer = await http.get(f"{instance.endpoint}/fed/v1/peers")
        answer.raise_for_status()
    except httpx.HTTPError as fault:
        raise StackError(f"the gate of {instance.member.id} does not answer: {fault!r}") from None
    return View.model_validate(answer.json())


async def look_everywhere(http: httpx.AsyncClient, instances: Mapping[str, MemberInstance]) -> dict[str, View]:
    """What every gate says."""
    views = await asyncio.gather(*(look(http, one) for one in instances.values()))
    return dict(zip(instances, views, strict=True))


def disagreements(views: Mapping[str, View]) -> list[str]:
    """Where a member's copy of another's stream is not what its owner has: place, number of keys, digest, gaps."""
    found = []
    for owner, own in views.items():
        for mine in (one for one in own.streams if one.origin == owner and one.stream not in OWN_PACE):
            for reader, view in views.items():
                if reader == owner:
                    continue
                copies = [one for one in view.streams if (one.origin, one.stream) == (owner, mine.stream)]
                words = _difference(mine, copies[0]) if copies else "nothing has come"
                if words:
                    found.append(f"{reader} of {owner}/{mine.stream}: {words}")
    return found


def _difference(mine: Stream, copy: Stream) -> str:
    if copy.frozen:
        return "frozen"
    if (copy.epoch, copy.seq) != (mine.epoch, mine.seq):
        return f"at {copy.epoch}/{copy.seq}, its owner at {mine.epoch}/{mine.seq}"
    if copy.missing or copy.waiting:
        return f"{copy.missing} missing, {copy.waiting} waiting"
    if (copy.keys, copy.digest) != (mine.keys, mine.digest):
        return f"{copy.keys} keys with digest {copy.digest[:8]}, its owner {mine.keys} with {mine.digest[:8]}"
    return ""


async def until(holds: Callable[[], Awaitable[Any]], seconds: float) -> tuple[Any, float]:
    """Ask until the answer is true; returns the last answer and how many seconds it took."""
    began = time.monotonic()
    while True:
        found = await holds()
        took = time.monotonic() - began
        if found or took > seconds:
            return found, took
        await asyncio.sleep(0.2)
