"""Rate cards: those of the first day, those that are published later, and what a job would cost."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aifn_common import clock, event_log
from aifn_common.database import Transaction
from aifn_common.errors import Invalid, NotFound, Refusal
from aifn_events.vocabulary import RateCardId, ResourceId, Subject

from aifn_accounting import rate_data
from aifn_accounting.domain.rates import NoRate, Occupying, RateCard, Rates, Rule, read_rule
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import order
from aifn_accounting.store import rates as store

log = logging.getLogger(__name__)


class DuplicateRateCard(Refusal):
    """The resource has a card from this moment on, or another resource has one of this id."""

    code = "duplicate_rate_card"


class CardBeginsInPast(Invalid):
    """A card would change what was charged already."""

    code = "card_begins_in_past"

    def __init__(self, valid_from: datetime, now: datetime) -> None:
        super().__init__(
            f"a card holds from a moment that is yet to come, not from {valid_from.isoformat()}: now it is "
            f"{now.isoformat()}; what was charged wrongly is corrected by a higher revision of its record"
        )
        self.valid_from = valid_from.isoformat()


class UnitMismatch(Invalid):
    """A rule counts a node in other slices than the machine's passport."""

    code = "unit_mismatch"

    def __init__(self, resource: ResourceId, *, slices_per_node: int, units_per_node: int) -> None:
        super().__init__(f"a node of {resource} has {units_per_node} slices, and the rule says {slices_per_node}")
        self.resource = resource
        self.slices_per_node = slices_per_node
        self.units_per_node = units_per_node


class NoCardThen(NotFound):
    """No rate card was in force at that time."""

    code = "no_rate_card"


@dataclass(frozen=True)
class Quote:
    """What something would cost: slice-seconds by the card in force."""

    card: RateCard
    amount: int
    units: store.Units


async def load_seed(tx: Transaction, settings: AccountingSettings) -> None:  # noqa: ARG001 - the plumbing passes it
    """Add the cards that come with the package and are not there yet.

    Where something has been charged, a new card of the package that begins in the past is left out, since what comes
    late would cost otherwise than what came in time: it is published with a date to come.
    """
    with clock.held():
        now, charged = clock.now(), await store.any_usage(tx)
        await store.lock_cards(tx)
        found = []
        for one in rate_data.cards():
            if await store.is_known(tx, one.resource, one.valid_from):
                continue
            if charged and one.valid_from <= now:
                log.warning("rate card %s is left out: publish it with a moment that is yet to come", one.id)
                continue
            found.append(one)
        await add_cards(tx, found)
        words = {"cards": [one.model_dump(mode="json") for one in found]}
        await event_log.keep_order(tx, event_log.Order("add-cards", words))


async def add_cards(tx: Transaction, cards: Sequence[rate_data.CardRecord]) -> None:
    """Keep cards that came with the package, whatever moment they begin at."""
    for one in cards:
        card = RateCard(one.id, one.resource, one.numerator, one.denominator, one.valid_from, None, read_rule(one.rule))
        await store.add_card(
            tx,
            store.Published(card, one.rule, one.version, one.title, one.source, one.not_confirmed, "aifn", clock.now()),
        )


async def publish(
    tx: Transaction,
    *,
    card_id: RateCardId,
    resource: ResourceId,
    numerator: int,
    denominator: int,
    valid_from: datetime,
    rule: Mapping[str, Any] | None,
    title: str,
    source: str,
    not_confirmed: tuple[str, ...],
    by: Subject,
) -> store.Published:
    """Publish the next version of a resource's card, from a moment to come; it takes over from the one before.

    Raises: NotFound, WrongRule, UnitMismatch, CardBeginsInPast, DuplicateRateCard.
    """
    await order.beside_usage(tx)
    now = clock.now()
    units = await store.units_of(tx, resource)
    read = read_rule(rule)
    _check_units(resource, read, units)
    if valid_from <= now:
        raise CardBeginsInPast(valid_from, now)
    await store.lock_cards(tx)
    if await store.is_known(tx, resource, valid_from):
        raise DuplicateRateCard(f"{resource} has a card from {valid_from.isoformat()} on")
    if await store.is_taken(tx, card_id, resource):
        raise DuplicateRateCard(f"another resource has a card {card_id}")
    new = store.Published(
        RateCard(card_id, resource, numerator, denominator, valid_from, None, read),
        rule,
        await store.next_version(tx, resource),
        title,
        source,
        not_confirmed,
        by,
        now,
    )
    await store.add_card(tx, new)
    return new


async def quote(tx: Transaction, resource: ResourceId, record: Occupying, amount: int) -> Quote:
    """What a run would cost by the card in force when it ends. Raises NotFound, NoCardThen."""
    units = await store.units_of(tx, resource)
    try:
        card = Rates(await store.cards_for(tx, resource)).card(resource, record.ended_at)
    except NoRate as none:
        raise NoCardThen(str(none)) from None
    return Quote(card, card.rate(amount, record), units)


def _check_units(resource: ResourceId, rule: Rule | None, units: store.Units) -> None:
    if rule is not None and rule.slices_per_node != units.units_per_node:
        raise UnitMismatch(resource, slices_per_node=rule.slices_per_node, units_per_node=units.units_per_node)
