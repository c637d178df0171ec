"""Work that leaves its award's machines: who pays what, and what two factories owe each other. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aifn_common.errors import Invalid
from aifn_events.vocabulary import FactoryId, ResourceId

Side = Literal["home", "receiver"]


class WrongAgreement(Invalid):
    """An exchange names one factory twice, or a rate that is none."""

    code = "wrong_agreement"


@dataclass(frozen=True)
class Exchange:
    """What a job of `home` used at `receiver`, under a dated agreement.

    `amount` of `resource` was used at the receiver; one unit costs numerator / denominator of `home_resource`.
    """

    home: FactoryId
    receiver: FactoryId
    resource: ResourceId
    amount: int
    home_resource: ResourceId
    numerator: int
    denominator: int

    def __post_init__(self) -> None:
        if self.home == self.receiver:
            raise WrongAgreement(f"{self.home} has no exchange with itself")
        if self.numerator <= 0 or self.denominator <= 0 or self.amount < 0:
            raise WrongAgreement("a rate is above zero, and an amount not below it")

    @property
    def home_amount(self) -> int:
        """What the home allocation pays, rounded up to a whole unit.

        >>> Exchange("a", "b", "m/p/gpu-time", 10, "n/q/gpu-time", 3, 4).home_amount
        8
        """
        return -(-self.amount * self.numerator // self.denominator)

    @property
    def clearing(self) -> str:
        """The account between the two, the same whoever is home."""
        return clearing_of(self.home, self.receiver)


@dataclass(frozen=True)
class Leg:
    """One balanced movement of one resource; each account is named by what it is."""

    resource: ResourceId
    amount: int
    source: Literal["clearing", "pool", "allocation"]
    target: Literal["clearing", "pool", "consumed"]


def clearing_of(one: FactoryId, other: FactoryId) -> str:
    """The owner of the clearing accounts between two factories, in the order of their names.

    >>> clearing_of("lumi-aif", "bsc-aif")
    'clearing:bsc-aif:lumi-aif'
    """
    return "clearing:" + ":".join(sorted((one, other)))


def legs(exchange: Exchange, side: Side) -> Sequence[Leg]:
    """What one factory books.

    Home: its allocation pays as if the work had run here, and the hours that were not used go back to the pool they
    came from, out of the clearing account, which so stands below zero: that much is owed. Receiver: its pool gives what
    was used into the clearing account, which stands above zero: that much is due. Each leg has one resource, so unlike
    hours are never added up; work in the other direction takes the debt down.
    """
    if side == "home":
        paid = exchange.home_amount
        return (
            Leg(exchange.home_resource, paid, "allocation", "consumed"),
            Leg(exchange.home_resource, paid, "clearing", "pool"),
        )
    return (Leg(exchange.resource, exchange.amount, "pool", "clearing"),)
