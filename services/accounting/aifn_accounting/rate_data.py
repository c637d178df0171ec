"""Rate cards that come with the package as data, each with its source."""

from functools import cache
from importlib.resources import files
from typing import Any

from aifn_events.vocabulary import Moment, RateCardId, ResourceId
from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class CardRecord(BaseModel):
    """One card of the file; `rule` as `domain/rates.py` reads it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: RateCardId
    resource: ResourceId
    version: PositiveInt
    title: str
    numerator: int = Field(ge=0)
    denominator: PositiveInt
    valid_from: Moment
    rule: dict[str, Any] | None
    source: str = Field(min_length=1)
    not_confirmed: tuple[str, ...]


class _File(BaseModel):
    note: str
    cards: tuple[CardRecord, ...]


@cache
def cards() -> tuple[CardRecord, ...]:
    """All cards, in the order of the file."""
    text = files("aifn_accounting").joinpath("seed", "rate_cards.json").read_text(encoding="utf-8")
    return _File.model_validate_json(text).cards
