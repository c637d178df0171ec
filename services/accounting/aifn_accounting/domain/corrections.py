"""What a person may correct by hand, and how far. Pure.

The records and their charge stay as they are: what was reported is corrected by its site, with a higher revision. A
person gives back to an allocation what it should not have paid, and that stands beside the charge, linked to it.
"""

from dataclasses import dataclass

from aifn_common.errors import Invalid, Refusal

CORRECTABLE = ("charge", "refund", "correction")


class NotCorrectable(Invalid):
    """This line of a statement is nothing that a person can correct."""

    code = "not_correctable"


class CorrectionTooLarge(Refusal):
    """More was to be given back than was charged, or more to be taken back than had been given."""

    code = "correction_too_large"

    def __init__(self, transfer_id: int, *, asked: int, most: int) -> None:
        super().__init__(f"line {transfer_id} can be corrected by {most} now, not by {asked}")
        self.transfer_id = transfer_id
        self.asked = asked
        self.most = most


@dataclass(frozen=True)
class Line:
    """A line of a statement that is to be corrected.

    `charged`: what the record behind the charge costs this allocation now, in its highest revision. `given_back`: what
    corrections have given back of it so far, net. `own`, `undone`: of a line that is a correction itself, by how much
    that corrected, and how much of it was corrected again; above zero for what was given, below for what was taken.
    """

    transfer_id: int
    kind: str
    charged: int
    given_back: int
    own: int | None = None
    undone: int = 0


def most_of(line: Line) -> int:
    """By how much a line can be corrected at most: above zero is given back, below zero taken back.

    A charge can be given back once, whatever the number of corrections. A correction of a correction goes the other way
    and undoes that one, once. Raises: NotCorrectable.

    >>> most_of(Line(7, "charge", charged=600, given_back=100))
    500
    >>> most_of(Line(9, "correction", charged=600, given_back=100, own=100))
    -100
    """
    if line.kind not in CORRECTABLE or (line.kind == "correction" and line.own is None):
        raise NotCorrectable(f"line {line.transfer_id} is of kind {line.kind}: correct a charge, or a correction")
    left = max(line.charged - line.given_back, 0)
    if line.own is None:
        return left
    undo = line.undone - line.own
    # What was taken back may have been given again by another correction of the same charge.
    return undo if undo < 0 else min(undo, left)


def check_correction(line: Line, amount: int) -> None:
    """Whether a line may be corrected by this amount. Raises: NotCorrectable, CorrectionTooLarge, Invalid."""
    if amount == 0:
        raise Invalid("a correction by nothing is none")
    most = most_of(line)
    if (amount > 0) != (most > 0) or abs(amount) > abs(most):
        raise CorrectionTooLarge(line.transfer_id, asked=amount, most=most)
