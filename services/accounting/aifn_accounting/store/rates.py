"""Rate cards as they are kept and published."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aifn_common.database import Row, Transaction
from aifn_common.errors import NotFound
from aifn_events.vocabulary import RateCardId, ResourceId

from aifn_accounting.domain.rates import RateCard, read_rule

_COLUMNS = """id, resource, numerator, denominator, valid_from, valid_until, rule, version, title, source,
    not_confirmed, published_by, published_at"""
_LIST = f"""
SELECT {_COLUMNS} FROM rate_card
WHERE ($1::text IS NULL OR resource = $1) AND (resource, valid_from) > ($2, $3)
ORDER BY resource, valid_from LIMIT $4"""
_ALL_OF = f"SELECT {_COLUMNS} FROM rate_card WHERE resource IN ($1, '*')"
_VERSION = "SELECT coalesce(max(version), 0) + 1 FROM rate_card WHERE resource = $1"
_KNOWN = "SELECT EXISTS (SELECT FROM rate_card WHERE resource = $1 AND valid_from = $2)"
_ID_TAKEN = "SELECT EXISTS (SELECT FROM rate_card WHERE id = $1 AND resource <> $2)"
_ADD = f"""
INSERT INTO rate_card ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (resource, valid_from) DO NOTHING"""
_ANY_USAGE = "SELECT EXISTS (SELECT FROM usage_record)"
_UNITS = "SELECT units_per_node, gpus_per_node FROM resource WHERE id = $1"
_LOCK = "SELECT pg_advisory_xact_lock(7075616766)"


@dataclass(frozen=True)
class Published:
    """A rate card with where it is from; `not_confirmed` names parameters that no public page was found to state."""

    card: RateCard
    rule_words: Mapping[str, Any] | None
    version: int
    title: str
    source: str
    not_confirmed: tuple[str, ...]
    published_by: str
    published_at: datetime


@dataclass(frozen=True)
class Units:
    """How a resource is counted."""

    units_per_node: int
    gpus_per_node: int | None


async def lock_cards(tx: Transaction) -> None:
    """Be the only one who publishes until the end."""
    await tx.execute(_LOCK)


async def list_cards(
    tx: Transaction, *, resource: ResourceId | None, after: tuple[str, datetime], limit: int
) -> list[Published]:
    """Cards by resource, each resource's in the order in which they take over."""
    return [_published(row) for row in await tx.fetch(_LIST, resource, *after, limit)]


async def cards_for(tx: Transaction, resource: ResourceId) -> list[RateCard]:
    """The cards that may ever charge a resource: its own and the general ones."""
    return [_published(row).card for row in await tx.fetch(_ALL_OF, resource)]


async def next_version(tx: Transaction, resource: str) -> int:
    """The version of the resource's next card; `lock_cards` first."""
    return int(await tx.fetchval(_VERSION, resource))


async def is_known(tx: Transaction, resource: str, valid_from: datetime) -> bool:
    """Whether a resource has a card from this moment on."""
    return bool(await tx.fetchval(_KNOWN, resource, valid_from))


async def is_taken(tx: Transaction, card_id: RateCardId, resource: str) -> bool:
    """Whether a card of another resource has this id."""
    return bool(await tx.fetchval(_ID_TAKEN, card_id, resource))


async def any_usage(tx: Transaction) -> bool:
    """Whether anything was ever charged here."""
    return bool(await tx.fetchval(_ANY_USAGE))


async def units_of(tx: Transaction, resource: ResourceId) -> Units:
    """How a resource is counted. Raises NotFound."""
    row = await tx.fetchrow(_UNITS, resource)
    if row is None:
        raise NotFound(f"no machine here has {resource}")
    return Units(**row)


async def add_card(tx: Transaction, new: Published) -> None:
    """Keep a card; one from the same moment on stays as it is."""
    card = new.card
    rule = new.rule_words
    await tx.execute(
        _ADD,
        card.id,
        card.resource,
        card.numerator,
        card.denominator,
        card.valid_from,
        card.valid_until,
        None if rule is None else dict(rule),
        new.version,
        new.title,
        new.source,
        list(new.not_confirmed),
        new.published_by,
        new.published_at,
    )


def _published(row: Row) -> Published:
    words = row["rule"]
    card = RateCard(
        row["id"],
        row["resource"],
        row["numerator"],
        row["denominator"],
        row["valid_from"],
        row["valid_until"],
        read_rule(words),
    )
    return Published(
        card,
        words,
        row["version"],
        row["title"],
        row["source"],
        tuple(row["not_confirmed"]),
        row["published_by"],
        row["published_at"],
    )
