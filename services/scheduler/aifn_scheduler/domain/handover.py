"""How a job is handed over to another factory: two logs, one final state, whoever is cut off for however long.

Home asks and holds budget, the receiver answers, home confirms or voids, and only a confirmed hand-over starts. So at
each step one side alone decides: home until it has confirmed, the receiver afterwards. A step of the other side that
comes late finds the decision taken and changes nothing; both sides compute the same end from what both have said.

    requested -> accepted -> confirmed -> started -> finished
        |           |
        +-----------+-> rejected | cancelled | expired

Source of the two phases: pending transfers that are posted or voided, as TigerBeetle has them; decision 34.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from aifn_common.errors import Refusal

Step = Literal["requested", "accepted", "declined", "confirmed", "voided", "started", "finished"]
State = Literal["requested", "accepted", "confirmed", "started", "finished", "rejected", "cancelled", "expired"]
Void = Literal["rejected", "cancelled", "expired"]
Side = Literal["home", "receiver"]

FINAL: frozenset[State] = frozenset(("finished", "rejected", "cancelled", "expired"))
OF_HOME: frozenset[Step] = frozenset(("requested", "confirmed", "voided"))


class WrongStep(Refusal):
    """A side takes a step that is not its own, or not the next one."""

    code = "wrong_step"

    def __init__(self, handover_id: str, step: Step, state: State) -> None:
        super().__init__(f"{handover_id} is {state}: {step} cannot follow")
        self.handover_id = handover_id
        self.step = step
        self.state = state


class MoreThanHeld(Refusal):
    """A receiver claims more than home has set aside."""

    code = "more_than_held"

    def __init__(self, handover_id: str, *, used: int, held: int) -> None:
        super().__init__(f"{handover_id} used {used}, and {held} are held for it")
        self.handover_id = handover_id
        self.used = used
        self.held = held


@dataclass(frozen=True)
class Handover:
    """What one side knows of one hand-over.

    Args:
        held: what home set aside, in the small unit of the receiver's resource.
        answer_by: after it home may void an unanswered request.
        end_by: after it the receiver must say how it ended.
        home, receiver: the steps of each side, in the order in which that side took them.
        reason: why home voided it.
        used: what the receiver has counted, once it is finished.
    """

    id: str
    held: int
    answer_by: datetime
    end_by: datetime
    home: tuple[Step, ...] = ("requested",)
    receiver: tuple[Step, ...] = ()
    reason: Void | None = None
    used: int | None = None

    @property
    def state(self) -> State:
        """Where it is, by what both sides have said: home's word until it has confirmed, the receiver's after that."""
        if self.reason is not None:
            return self.reason
        if "confirmed" in self.home:
            # What comes before news of the confirmation itself is no later state.
            return next((step for step in ("finished", "started") if step in self.receiver), "confirmed")
        return "accepted" if "accepted" in self.receiver else "requested"

    @property
    def released(self) -> int | None:
        """What goes back to the project at the end; None before it."""
        if self.state not in FINAL:
            return None
        return self.held - (self.used or 0)


def answer(handover: Handover, *, accept: bool) -> Handover:
    """The receiver's only answer: it binds the receiver, and home must still confirm. Raises WrongStep."""
    step: Step = "accepted" if accept else "declined"
    if handover.receiver or handover.home != ("requested",):
        raise WrongStep(handover.id, step, handover.state)
    return replace(handover, receiver=(step,))


def conclude(handover: Handover, now: datetime, *, cancel: bool = False) -> Handover:
    """What home decides on what it knows: confirm, void, or wait on. The same again once it is decided.

    `cancel`: the project does not want it any more; after the confirmation that is for the receiver to carry out.
    """
    if handover.home != ("requested",):
        return handover
    if "declined" in handover.receiver:
        return replace(handover, home=("requested", "voided"), reason="rejected")
    if cancel:
        return replace(handover, home=("requested", "voided"), reason="cancelled")
    if "accepted" in handover.receiver:
        return replace(handover, home=("requested", "confirmed"))
    if now > handover.answer_by:
        return replace(handover, home=("requested", "voided"), reason="expired")
    return handover


def start(handover: Handover) -> Handover:
    """The receiver starts the job. Raises WrongStep unless home has confirmed it."""
    if handover.state != "confirmed" or "accepted" not in handover.receiver:
        raise WrongStep(handover.id, "started", handover.state)
    return replace(handover, receiver=(*handover.receiver, "started"))


def finish(handover: Handover, used: int) -> Handover:
    """The receiver says how much was used: nothing if it never started. Raises WrongStep, MoreThanHeld."""
    started = handover.state == "started"
    if not started and (handover.state != "confirmed" or used):
        raise WrongStep(handover.id, "finished", handover.state)
    if not 0 <= used <= handover.held:
        raise MoreThanHeld(handover.id, used=used, held=handover.held)
    return replace(handover, receiver=(*handover.receiver, "finished"), used=used)


def sweep(handover: Handover, now: datetime, *, counted: int) -> Handover:
    """The receiver ends what should have ended; `counted` is what was used so far. Others' decisions are left alone."""
    if now <= handover.end_by or handover.state not in ("confirmed", "started"):
        return handover
    used = min(counted, handover.held) if handover.state == "started" else 0
    return finish(handover, used)


def hear(handover: Handover, said: Handover, side: Side) -> Handover:
    """Take in what the other side has said so far. Any copy, and any older news, changes nothing.

    Args:
        said: the hand-over as the other side has told it.
        side: who hears. A side knows its own steps best, so only the other's are taken.
    """
    if side == "home":
        if len(said.receiver) <= len(handover.receiver):
            return handover
        return replace(handover, receiver=said.receiver, used=said.used)
    if len(said.home) <= len(handover.home):
        return handover
    return replace(handover, home=said.home, reason=said.reason)


def settled(handovers: Iterable[Handover]) -> tuple[int, int]:
    """What was charged and what was released by those that have ended.

    >>> from datetime import UTC, datetime
    >>> now = datetime(2026, 11, 21, tzinfo=UTC)
    >>> one = Handover("h", 100, now, now, ("requested", "confirmed"), ("accepted", "started", "finished"), used=30)
    >>> settled([one])
    (30, 70)
    """
    ended = [one for one in handovers if one.state in FINAL]
    return sum(one.used or 0 for one in ended), sum(one.released or 0 for one in ended)
