"""Rate cards: dated rules that turn what a segment occupied into the amount to charge, exact to the slice-second."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import lcm
from typing import Any, Literal, Protocol, get_args

from aifn_common.errors import Invalid
from aifn_events.vocabulary import RateCardId, ResourceId

from aifn_accounting.domain.ledger import LARGEST_AMOUNT

Quantity = Literal["cores", "devices", "memory_mib", "nodes"]
WholeNodes = Literal["always", "exclusive", "never"]

_SECOND = timedelta(seconds=1)
# Far more than any node of today has, and small enough that no charge leaves 64 bits.
_MOST_IN_A_NODE: Mapping[str, int] = {"cores": 4096, "devices": 128, "memory_mib": 64 * 1024 * 1024}


class Occupying(Protocol):
    """What a rate card may look at in a usage record; cores, devices and memory are those of all nodes together."""

    @property
    def started_at(self) -> datetime: ...
    @property
    def ended_at(self) -> datetime: ...
    @property
    def nodes(self) -> int: ...
    @property
    def cores(self) -> int | None: ...
    @property
    def devices(self) -> int | None: ...
    @property
    def memory_mib(self) -> int | None: ...
    @property
    def exclusive(self) -> bool | None: ...
    @property
    def suspended_seconds(self) -> int: ...
    @property
    def idle_reservation(self) -> bool: ...
    @property
    def gpu_model(self) -> str | None: ...
    @property
    def energy_joules(self) -> int | None: ...


class NegativeElapsed(Invalid):
    """A record says that a run was suspended for longer than it took."""

    code = "negative_elapsed"

    def __init__(self, suspended_seconds: int, *, elapsed_seconds: int) -> None:
        super().__init__(f"it was suspended for {suspended_seconds} s of {elapsed_seconds} s")
        self.suspended_seconds = suspended_seconds
        self.elapsed_seconds = elapsed_seconds


class AbsurdQuantity(Invalid):
    """A record counts more of something than its nodes can have."""

    code = "absurd_quantity"

    def __init__(self, quantity: str, found: int, *, limit: int) -> None:
        super().__init__(f"{found} {quantity} is more than its nodes can have: at most {limit}")
        self.quantity = quantity
        self.found = found
        self.limit = limit


class WrongRule(Invalid):
    """The words of a charging rule make no sense."""

    code = "wrong_rule"


@dataclass(frozen=True)
class Share:
    """A way to measure how much of a node is taken: so many slices for every `per` of a quantity.

    `whole`: a begun step counts as a whole one, as in `ceil(memory / 2 GB)`.
    """

    of: Quantity
    per: int
    slices: int
    whole: bool = False


@dataclass(frozen=True)
class Rule:
    """How one partition is charged: whole nodes, or the largest of some shares, times a time in steps.

    slices_per_node: as in the machine's passport, so that the result is in slice-seconds of the resource.
    whole_nodes: `always`, `never`, or `exclusive`: where the record says that it had its nodes to itself.
    step_seconds: a begun step of time counts as a whole one.
    idle_reservations: whether nodes that were reserved and that nobody used are charged too.
    """

    slices_per_node: int
    whole_nodes: WholeNodes = "never"
    shares: tuple[Share, ...] = ()
    step_seconds: int = 1
    idle_reservations: bool = False

    def slice_seconds(self, record: Occupying) -> tuple[int, int] | None:
        """What the record occupied by this rule, as numerator and denominator of slice-seconds.

        None, if the record says too little for the rule: then what was reported stands.

        >>> from types import SimpleNamespace as Record
        >>> day = dict(started_at=datetime(2026, 1, 1), ended_at=datetime(2026, 1, 2), suspended_seconds=0)
        >>> small = Record(**day, nodes=1, exclusive=False, idle_reservation=False, cores=4, memory_mib=32 * 1024)
        >>> lumi_c = Rule(128, "exclusive", (Share("cores", 1, 1), Share("memory_mib", 2048, 1, whole=True)))
        >>> amount, parts = lumi_c.slice_seconds(small)
        >>> amount // parts // 3600  # the 384 core-hours of LUMI's own example: a core has one slice
        384
        """
        seconds = -(-run_seconds(record) // self.step_seconds) * self.step_seconds
        if record.idle_reservation and not self.idle_reservations:
            return 0, 1
        if self.whole_nodes == "always" or (self.whole_nodes == "exclusive" and record.exclusive):
            return record.nodes * self.slices_per_node * seconds, 1
        common = lcm(*(share.per for share in self.shares)) if self.shares else 1
        found = -1
        for share in self.shares:
            taken = getattr(record, share.of)
            if taken is None:
                continue
            if share.whole:
                taken = -(-taken // share.per) * share.per
            found = max(found, taken * share.slices * (common // share.per))
        return None if found < 0 else (found * seconds, common)


def run_seconds(record: Occupying) -> int:
    """The whole seconds in which a segment ran and was not suspended, never below zero."""
    return max((record.ended_at - record.started_at) // _SECOND - record.suspended_seconds, 0)


def check_occupied(record: Occupying) -> None:
    """Refuse quantities that cannot be true. Raises NegativeElapsed, AbsurdQuantity."""
    if record.suspended_seconds:
        elapsed = (record.ended_at - record.started_at) // _SECOND
        if record.suspended_seconds > elapsed:
            raise NegativeElapsed(record.suspended_seconds, elapsed_seconds=elapsed)
    if record.cores is record.devices is record.memory_mib is None:
        return
    for quantity, most in _MOST_IN_A_NODE.items():
        found = getattr(record, quantity)
        if found is not None and found > most * record.nodes:
            raise AbsurdQuantity(quantity, found, limit=most * record.nodes)


_OCCUPIED = ("cores", "devices", "memory_mib", "exclusive", "gpu_model", "energy_joules")


def occupied_json(record: Occupying) -> str | None:
    """What a record says beyond nodes and amounts, as JSON with sorted keys; None if it says nothing of it.

    Unknown is left out and never written as zero.
    """
    if (
        record.cores is record.devices is record.memory_mib is record.exclusive is None
        and record.gpu_model is None
        and record.energy_joules is None
        and not (record.suspended_seconds or record.idle_reservation)
    ):
        return None  # as nearly always
    said = {name: value for name in _OCCUPIED if (value := getattr(record, name)) is not None}
    if record.suspended_seconds:
        said["suspended_seconds"] = record.suspended_seconds
    if record.idle_reservation:
        said["idle_reservation"] = True
    return json.dumps(said, sort_keys=True)


@dataclass(frozen=True)
class RateCard:
    """How an amount that was reported becomes an amount that is charged, for some time.

    Without a rule: what was reported, times `numerator`, divided by `denominator`, rounded up. With one: the same of
    what the rule makes of cores, devices, memory and nodes.
    """

    id: RateCardId
    resource: str
    numerator: int
    denominator: int
    valid_from: datetime
    valid_until: datetime | None
    rule: Rule | None = None

    def valid(self, at: datetime) -> bool:
        """Whether the card was in force at a moment."""
        return self.valid_from <= at and (self.valid_until is None or at < self.valid_until)

    def rate(self, amount: int, record: Occupying | None = None) -> int:
        """The amount to charge, rounded up to a whole unit.

        A rule that comes to more than any machine could give is not believed: what was reported stands.

        Args:
            amount: as it was reported, in the unit of the resource.
            record: what was occupied; without it the rule is not asked.
        """
        if self.rule is None:
            return -(-amount * self.numerator // self.denominator)
        parts = 1
        if record is not None:
            ruled = self.rule.slice_seconds(record)
            if ruled is not None and ruled[0] <= LARGEST_AMOUNT * ruled[1]:
                amount, parts = ruled
        return -(-amount * self.numerator // (self.denominator * parts))


class NoRate(Exception):
    """No rate card is in force: the operator's data has a gap, which is not the record's fault."""


class Rates:
    """The rate cards, quick to ask."""

    def __init__(self, cards: Iterable[RateCard]) -> None:
        self._cards = sorted(cards, key=lambda card: card.valid_from, reverse=True)
        self._by_resource: dict[ResourceId, list[RateCard]] = {}

    def card(self, resource: ResourceId, at: datetime) -> RateCard:
        """The card in force: one of the resource's own before the general one, the newest first. Raises NoRate."""
        candidates = self._by_resource.get(resource)
        if candidates is None:
            own = [card for card in self._cards if card.resource == resource]
            candidates = own + [card for card in self._cards if card.resource == "*"]
            self._by_resource[resource] = candidates
        for card in candidates:
            if card.valid(at):
                return card
        raise NoRate(f"no rate card for {resource} is in force at {at.isoformat()}")


def read_rule(words: Mapping[str, Any] | None) -> Rule | None:
    """A rule from its JSON words; None for none. Raises WrongRule."""
    if words is None:
        return None
    try:
        shares = tuple(Share(**one) for one in words.get("shares", ()))
        rule = Rule(**{**words, "shares": shares})
    except (TypeError, AttributeError) as wrong:
        raise WrongRule(f"the rule cannot be read: {wrong}") from None
    if not all(type(flag) is bool for flag in (rule.idle_reservations, *(one.whole for one in shares))):
        raise WrongRule("`idle_reservations` and `whole` are true or false")
    counts = [rule.slices_per_node, rule.step_seconds, *(one.per for one in shares), *(one.slices for one in shares)]
    if not all(type(count) is int and 0 < count < 2**31 for count in counts):
        raise WrongRule("numbers of a rule are whole and above zero")
    if rule.whole_nodes not in get_args(WholeNodes) or any(one.of not in get_args(Quantity) for one in shares):
        raise WrongRule("a rule knows whole nodes always, exclusive or never, and shares of cores, devices, ...")
    if rule.whole_nodes == "never" and not shares:
        raise WrongRule("a rule that is not of whole nodes needs shares")
    return rule
