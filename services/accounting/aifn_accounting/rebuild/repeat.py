"""Carries out one entry of the event log again: by the same handlers, routes and steps, at the same moment."""

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

import httpx
from aifn_common import clock, event_log
from aifn_common.answering import make_api
from aifn_common.database import Database, Transaction, transaction
from aifn_common.errors import Refusal
from aifn_common.event_log import Entry, Message, Order
from aifn_common.kafka import Rejected
from aifn_common.oidc import Identity
from aifn_events.cloudevents import MalformedEvent, parse
from aifn_events.usage import UsageReported
from fastapi import FastAPI

from aifn_accounting.actions import allocations, awards, completeness, rates, usage
from aifn_accounting.app import service
from aifn_accounting.rate_data import CardRecord
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import allocations as allocation_store
from aifn_accounting.store import names
from aifn_accounting.subscribers import hears

USAGE = UsageReported.topic
_CORRECTION = re.compile(r"/v1/allocations/([^/]+)/corrections")
_ATTRIBUTION = re.compile(r"/v1/suspense/(\d+)/attribution")


class Diverged(Exception):
    """What was done once is refused now: the log and the books do not belong together."""


class _Remembered:
    """Knows who asked, without a token: that was looked at when it was asked."""

    def __init__(self) -> None:
        self.identity = Identity("", ())

    async def identify(self, _: str) -> Identity:
        return self.identity


class Repeater:
    """Carries out entries on an empty database with accounting's tables.

    Args:
        source: the database that the log comes from, where numbers in orders have their meaning.
    """

    def __init__(self, db: Database, settings: AccountingSettings, source: Transaction) -> None:
        self._db = db
        self._settings = settings
        self._source = source
        self._who = _Remembered()
        self._app: FastAPI = make_api(service, settings)
        self._app.state.db = db
        self._app.state.validator = self._who
        self._single = {one.kind.topic: one for one in hears.single}
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(app=self._app), base_url="http://accounting.log")

    async def carry_out(self, entry: Entry) -> list[int]:
        """Do again what an entry did; returns the arrival numbers of messages that are refused. Raises Diverged."""
        with event_log.repeating(), clock.held(clock.Moment(entry.at, entry.seed or b"")):
            if entry.order is not None:
                await self._order(entry, entry.order)
                return []
            if entry.kind == "set_aside":
                return []
            if entry.messages[0].topic == USAGE:
                refused = await self.charge(entry.messages)
                return [entry.number + place for place in refused]
            for message in entry.messages:
                await self._hear(entry, message)
            return []

    async def charge(self, messages: Sequence[Message]) -> list[int]:
        """Charge usage in one batch; returns the places of the messages that are refused."""
        (one,) = (batch for batch in hears.batches if batch.kind.topic == USAGE)
        places: dict[int, int] = {}
        events, refused = [], []
        for place, message in enumerate(messages):
            try:
                event = one.read(message)
            except MalformedEvent:
                refused.append(place)
                continue
            places[id(event)] = place
            events.append(event)
        if events:
            async with transaction(self._db) as tx:
                rejected: Sequence[Rejected] = await usage.charge_usage(tx, events, self._settings)
            refused += [places[id(rejection.event)] for rejection in rejected]
        return refused

    async def settle(self) -> None:
        """Charge all that waited and can be paid."""
        settled = 1
        while settled:
            async with transaction(self._db) as tx:
                settled = await usage.settle_suspense(tx)

    async def _hear(self, entry: Entry, message: Message) -> None:
        one = self._single[message.topic]
        values = {"db": self._db, "settings": self._settings}
        wanted = {name: values[name] for name in inspect.signature(one.handler).parameters if name in values}
        try:
            await one.handler(parse(one.kind, message.headers, message.value), **wanted)
        except Refusal as refusal:
            raise Diverged(f"message {entry.number} of {message.topic} is refused now: {refusal}") from refusal

    async def _order(self, entry: Entry, order: Order) -> None:
        if " " in order.name:
            await self._ask(entry, order)
            return
        try:
            async with transaction(self._db) as tx:
                await _STEPS[order.name](tx, order.words, self._settings)
        except Refusal as refusal:
            raise Diverged(f"step {entry.number}, {order.name}, is refused now: {refusal}") from refusal

    async def _ask(self, entry: Entry, order: Order) -> None:
        method, path = order.name.split(" ", 1)
        path, body = await self._translate(path, order.body)
        self._who.identity = Identity(order.by, tuple(order.entitlements))
        self._app.state.settings = self._settings.model_copy(update=order.settings)
        answer = await self._http.request(
            method,
            path + (f"?{order.words['query']}" if order.words["query"] else ""),
            content=body,
            headers={**order.headers, "authorization": "Bearer of-the-log"},
        )
        if answer.is_error:
            raise Diverged(f"request {entry.number}, {order.name}, is refused now: {answer.status_code} {answer.text}")

    async def _translate(self, path: str, body: bytes) -> tuple[str, bytes]:
        """Numbers that the source gave out become those that the same things have here."""
        if found := _ATTRIBUTION.fullmatch(path):
            record = await names.identity_of_record(self._source, int(found[1]))
            async with self._db.acquire() as here:
                path = f"/v1/suspense/{await names.number_of_record(here, record)}/attribution"
        elif found := _CORRECTION.fullmatch(path):
            words: dict[str, Any] = json.loads(body)
            line = await names.describe_line(self._source, found[1], words["transfer_id"])
            async with self._db.acquire() as here:
                words["transfer_id"] = await names.find_line(here, found[1], line)
            body = json.dumps(words).encode()
        return path, body


# The steps of timers


async def _add_cards(tx: Transaction, words: dict[str, Any], _: AccountingSettings) -> None:
    await rates.add_cards(tx, [CardRecord.model_validate(one) for one in words["cards"]])


async def _watch_usage(tx: Transaction, words: dict[str, Any], settings: AccountingSettings) -> None:
    then = settings.model_copy(update={"usage_day_grace_seconds": words["usage_day_grace_seconds"]})
    await completeness.watch_usage(tx, then, until=words["until"])


async def _settle_suspense(tx: Transaction, words: dict[str, Any], _: AccountingSettings) -> None:
    await usage.settle_suspense(tx, limit=words["limit"])


async def _retry_award(tx: Transaction, words: dict[str, Any], _: AccountingSettings) -> None:
    await awards.retry_award(tx, words["award"])


async def _expire(tx: Transaction, words: dict[str, Any], _: AccountingSettings) -> None:
    number = await allocation_store.number_of(tx, words["allocation"])
    await allocations.expire(tx, number, ended_before=datetime.fromisoformat(words["ended_before"]))


async def _apply_policy(tx: Transaction, words: dict[str, Any], _: AccountingSettings) -> None:
    await allocations.apply_policy(tx, await allocation_store.number_of(tx, words["allocation"]))


_STEPS: dict[str, Callable[[Transaction, dict[str, Any], AccountingSettings], Awaitable[None]]] = {
    "add-cards": _add_cards,
    "watch-usage": _watch_usage,
    "settle-suspense": _settle_suspense,
    "retry-award": _retry_award,
    "expire": _expire,
    "apply-policy": _apply_policy,
}
