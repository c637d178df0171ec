"""`aifn approval`, `correction` and `clearing`: what people decide, correct by hand, and settle between factories."""

from typing import Annotated

import typer

from aifn_client.commands.pools import AllocationId, Key, Reason, say_waiting
from aifn_client.errors import Misuse
from aifn_client.http import path
from aifn_client.pool_models import Approval, Clearing, ClearingLine, ClearingMonth, Correction
from aifn_client.screen import (
    ROWS,
    All,
    AsJson,
    Column,
    Limit,
    asking,
    bound,
    print_line,
    print_table,
    put_json,
    show_list,
    show_one,
)

SERVICE = "accounting"
approvals = typer.Typer(name="approval", help="What waits for a second person.", no_args_is_help=True)
corrections = typer.Typer(name="correction", help="Charges corrected by hand.", no_args_is_help=True)
clearing = typer.Typer(name="clearing", help="What stands between two factories.", no_args_is_help=True)

Other = Annotated[str, typer.Argument(help="The other factory.")]
Month = Annotated[str, typer.Argument(help="2026-11")]

_APPROVALS = (
    Column[Approval]("approval", lambda one: one.approval_id, whole=True),
    Column[Approval]("what", lambda one: one.what),
    Column[Approval]("for", lambda one: one.project_id or one.pool_id),
    Column[Approval]("amount", lambda one: one.amount, right=True),
    Column[Approval]("asked by", lambda one: one.asked_by),
    Column[Approval]("asked", lambda one: one.asked_at, wide=True),
    Column[Approval]("state", lambda one: one.state),
)
_CORRECTIONS = (
    Column[Correction]("correction", lambda one: one.correction_id, whole=True),
    Column[Correction]("allocation", lambda one: one.allocation_id),
    Column[Correction]("line", lambda one: one.transfer_id, right=True),
    Column[Correction]("corrects", lambda one: one.corrects_transfer, right=True),
    Column[Correction]("amount", lambda one: one.amount, right=True),
    Column[Correction]("by", lambda one: one.corrected_by, wide=True),
    Column[Correction]("because", lambda one: one.reason),
)
_CLEARING = (
    Column[Clearing]("account", lambda one: one.account, whole=True),
    Column[Clearing]("of", lambda one: one.resource),
    Column[Clearing]("balance", lambda one: one.balance, right=True),
)
_LINES = (
    Column[ClearingLine]("of", lambda one: one.resource, whole=True),
    Column[ClearingLine]("opening", lambda one: one.opening, right=True),
    Column[ClearingLine]("gave", lambda one: one.gave, right=True),
    Column[ClearingLine]("took", lambda one: one.took, right=True),
    Column[ClearingLine]("closing", lambda one: one.closing, right=True),
    Column[ClearingLine]("settled", lambda one: one.settled, right=True),
    Column[ClearingLine]("left", lambda one: one.left, right=True),
)


@approvals.command("list")
def list_approvals(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(help="waiting, approved or rejected.")] = "waiting",
    project: Annotated[str | None, typer.Option(help="Only for this project.")] = None,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """What waits for a second person, oldest first."""
    with asking(context) as aifn:
        found = aifn.many(
            Approval, SERVICE, "/v1/approvals", at_most=bound(limit, everything), state=state, project=project
        )
        show_list(found, _APPROVALS, as_json=as_json, limit=limit, everything=everything, nothing="nothing waits")


@approvals.command("decide")
def decide(
    context: typer.Context,
    approval_id: str,
    reason: Reason,
    yes: Annotated[bool, typer.Option("--yes", help="Have it done.")] = False,
    no: Annotated[bool, typer.Option("--no", help="Turn it down.")] = False,
    as_json: AsJson = False,
) -> None:
    """Decide on what another person asked for."""
    with asking(context) as aifn:
        if yes == no:
            raise Misuse("what do you say?", advice="say exactly one of --yes and --no")
        body = {"approve": yes, "reason": reason}
        one = Approval.of(aifn.post(SERVICE, path("/v1/approvals/{}/decision", approval_id), body))
        rows = (("approval", one.approval_id), ("what", one.what), ("amount", one.amount), ("state", one.state))
        show_one(one, rows, as_json=as_json)


@corrections.command("add")
def add_correction(
    context: typer.Context,
    allocation_id: AllocationId,
    line: Annotated[int, typer.Argument(min=1, help="A line of its statement: a charge, or a correction.")],
    amount: Annotated[int, typer.Option(help="Above zero gives back, below zero takes a correction back.")],
    reason: Reason,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Give back what a charge should not have cost. A large one waits for a second person."""
    with asking(context) as aifn:
        body = {"transfer_id": line, "amount": amount, "reason": reason}
        answer = aifn.post(SERVICE, path("/v1/allocations/{}/corrections", allocation_id), body, key=key)
        if "approval_id" in answer:
            say_waiting(answer, as_json=as_json)
        elif as_json:
            put_json(answer)
        else:
            one = Correction.of(answer)
            print_line(f"{one.correction_id}: line {one.transfer_id} corrects line {one.corrects_transfer}")


@corrections.command("list")
def list_corrections(
    context: typer.Context,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    allocation: Annotated[str | None, typer.Option(help="Only of this allocation.")] = None,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """What was corrected by hand, oldest first."""
    with asking(context) as aifn:
        found = aifn.many(
            Correction, SERVICE, "/v1/corrections", at_most=bound(limit, everything),
            project=project, allocation_id=allocation,
        )  # fmt: skip
        show_list(
            found, _CORRECTIONS, as_json=as_json, limit=limit, everything=everything, nothing="nothing was corrected"
        )  # fmt: skip


@clearing.command("list")
def list_clearing(
    context: typer.Context, limit: Limit = ROWS, everything: All = False, as_json: AsJson = False
) -> None:
    """What stands now: below zero is owed by this factory, above is due to it."""
    with asking(context) as aifn:
        found = aifn.many(Clearing, SERVICE, "/v1/clearing", at_most=bound(limit, everything))
        show_list(found, _CLEARING, as_json=as_json, limit=limit, everything=everything, nothing="nothing stands open")


@clearing.command("show")
def show_month(context: typer.Context, other: Other, month: Month, as_json: AsJson = False) -> None:
    """A month with another factory: what each gave, what that comes to, what was settled."""
    with asking(context) as aifn:
        _show(aifn.one(ClearingMonth, SERVICE, path("/v1/clearing/{}/months/{}", other, month)), as_json=as_json)


@clearing.command("settle")
def settle_month(
    context: typer.Context, other: Other, month: Month, reason: Reason, key: Key = None, as_json: AsJson = False
) -> None:
    """Bring what stood at the end of a month to zero. The reason says how the factories make it good."""
    with asking(context) as aifn:
        place = path("/v1/clearing/{}/months/{}/settlement", other, month)
        _show(ClearingMonth.of(aifn.post(SERVICE, place, {"reason": reason}, key=key)), as_json=as_json)


def _show(one: ClearingMonth, *, as_json: bool) -> None:
    rows = (("month", one.month), ("between", f"{one.factory_id} and {one.other}"), ("settled", one.settled))
    show_one(one, rows, as_json=as_json)
    if not as_json and one.lines:
        print_table(one.lines, _LINES, title="by resource")
