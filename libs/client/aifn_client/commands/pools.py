"""`aifn pool`, `cap` and `allocation`: shares of machines, what is left of them, and what becomes of allocations."""

from datetime import datetime
from typing import Annotated, Any

import typer

from aifn_client import text
from aifn_client.http import path
from aifn_client.models import Allocation
from aifn_client.pool_models import Cap, Headroom, Pool
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
pools = typer.Typer(name="pool", help="Shares of machines, and what is left.", no_args_is_help=True)
caps = typer.Typer(name="cap", help="Ceilings of access modes.", no_args_is_help=True)
allocations = typer.Typer(name="allocation", help="Top up or extend an allocation.", no_args_is_help=True)

Reason = Annotated[str, typer.Option(help="Why, for those who ask later.")]
Resource = Annotated[str | None, typer.Option(help="Only of this one: machine/partition/kind.")]
Key = Annotated[str | None, typer.Option(help="The same key again does nothing twice.")]
AllocationId = Annotated[str, typer.Argument(help="See `aifn project balance`.")]
Amount = Annotated[int, typer.Option(min=1, help="In the resource's own unit, e.g. slice-seconds.")]

_POOLS = (
    Column[Pool]("pool", lambda one: one.pool_id, whole=True),
    Column[Pool]("kind", lambda one: one.kind),
    Column[Pool]("of", lambda one: one.resource),
    Column[Pool]("funded", lambda one: one.funded, right=True),
    Column[Pool]("passed on", lambda one: one.passed_on, right=True, wide=True),
    Column[Pool]("left", lambda one: one.available, right=True),
    Column[Pool]("until", lambda one: one.ends_at.astimezone().date(), wide=True),
)
_CAPS = (
    Column[Cap]("cap", lambda one: one.cap_id, whole=True),
    Column[Cap]("group", lambda one: one.mode_group),
    Column[Cap]("policy", lambda one: one.policy_version),
    Column[Cap]("of", lambda one: one.resource, wide=True),
    Column[Cap]("percent", lambda one: one.pct, right=True),
    Column[Cap]("ceiling", lambda one: one.ceiling, right=True),
    Column[Cap]("left", lambda one: one.headroom, right=True),
)


@pools.command("list")
def list_pools(
    context: typer.Context,
    resource: Resource = None,
    kind: Annotated[str | None, typer.Option(help="union, national or fund.")] = None,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Pools, by name."""
    with asking(context) as aifn:
        found = aifn.many(Pool, SERVICE, "/v1/pools", at_most=bound(limit, everything), resource=resource, kind=kind)
        show_list(found, _POOLS, as_json=as_json, limit=limit, everything=everything, nothing="no pool: not rationed")


@pools.command("show")
def show_pool(context: typer.Context, pool_id: str, as_json: AsJson = False) -> None:
    """One pool: what came in, what was passed on, what is left."""
    with asking(context) as aifn:
        _show_pool(aifn.one(Pool, SERVICE, path("/v1/pools/{}", pool_id)), as_json=as_json)


@pools.command("fund")
def fund_pool(
    context: typer.Context,
    pool_id: str,
    amount: Amount,
    reason: Reason,
    source: Annotated[str | None, typer.Option(help="The pool it comes out of; its funder, if left out.")] = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Put something into a pool. A large one waits for a second person."""
    with asking(context) as aifn:
        body = {"amount": amount, "source": source, "reason": reason}
        answer = aifn.post(SERVICE, path("/v1/pools/{}/funding", pool_id), body, key=key)
        if "approval_id" in answer:
            say_waiting(answer, as_json=as_json)
        else:
            _show_pool(Pool.of(answer), as_json=as_json)


def _show_pool(one: Pool, *, as_json: bool) -> None:
    rows = (
        ("pool", one.pool_id),
        ("title", one.title),
        ("kind", one.kind),
        ("below", one.parent),
        ("funder", one.funder),
        ("of", one.resource),
        ("open", f"{text.moment(one.starts_at)} to {text.moment(one.ends_at)}"),
        ("for", one.earmark),
        ("policy", one.use_or_lose),
        ("funded", one.funded),
        ("passed on", one.passed_on),
        ("left", one.available),
        ("reserved", one.reserved or None),
    )
    show_one(one, rows, as_json=as_json)


@caps.command("list")
def list_caps(
    context: typer.Context,
    resource: Resource = None,
    mode: Annotated[str | None, typer.Option(help="Only over this access mode, or group.")] = None,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Ceilings, and what is left below them."""
    with asking(context) as aifn:
        found = aifn.many(Cap, SERVICE, "/v1/caps", at_most=bound(limit, everything), resource=resource, mode=mode)
        show_list(found, _CAPS, as_json=as_json, limit=limit, everything=everything, nothing="no ceiling binds here")


@caps.command("show")
def show_cap(context: typer.Context, cap_id: str, as_json: AsJson = False) -> None:
    """One ceiling: what it is made of, and its source."""
    with asking(context) as aifn:
        one = aifn.one(Cap, SERVICE, path("/v1/caps/{}", cap_id))
        rows = (
            ("cap", one.cap_id),
            ("group", f"{one.mode_group}: {', '.join(one.modes)}"),
            ("policy", one.policy_version),
            ("of", f"{one.resource}, {one.pool_kind} share"),
            ("open", f"{text.moment(one.starts_at)} to {text.moment(one.ends_at)}"),
            ("ceiling", f"{one.ceiling}: {one.pct} % of {one.base_amount} ({one.base})"),
            ("used", one.used),
            ("left", one.headroom),
            ("yields", "to the demand of other modes" if one.yields else None),
            ("source", one.source),
        )
        show_one(one, rows, as_json=as_json)


@caps.command("headroom")
def show_headroom(
    context: typer.Context,
    resource: Annotated[str, typer.Argument(help="machine/partition/kind")],
    mode: Annotated[str | None, typer.Option(help="Under this access mode.")] = None,
    policy: Annotated[str | None, typer.Option(help="Of this policy version.")] = None,
    kind: Annotated[str, typer.Option(help="union, national or fund.")] = "union",
    as_json: AsJson = False,
) -> None:
    """What may be granted now, at most, and what bounds it."""
    with asking(context) as aifn:
        one = aifn.one(
            Headroom, SERVICE, "/v1/headroom", resource=resource, kind=kind, mode=mode, policy_version=policy
        )
        rows = (
            ("of", one.resource),
            ("share", one.kind),
            ("headroom", "not bounded" if one.headroom is None else one.headroom),
            ("pool", None if one.pool is None else f"{one.pool.pool_id}: {one.pool.available} left"),
        )
        show_one(one, rows, as_json=as_json)
        if not as_json and one.caps:
            print_table(one.caps, _CAPS, title="ceilings")


@allocations.command("top-up")
def top_up(
    context: typer.Context,
    allocation_id: AllocationId,
    amount: Amount,
    reason: Reason,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Grant an allocation more, out of the pool it came from. A large one waits for a second person."""
    _change(context, allocation_id, "top-ups", {"amount": amount, "reason": reason}, key, as_json=as_json)


@allocations.command("extend")
def extend(
    context: typer.Context,
    allocation_id: AllocationId,
    until: Annotated[datetime, typer.Option(help="The new end; UTC.")],
    reason: Reason,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Let an allocation end later."""
    body = {"ends_at": f"{until:%Y-%m-%dT%H:%M:%S}Z", "reason": reason}
    _change(context, allocation_id, "extensions", body, key, as_json=as_json)


def _change(
    context: typer.Context, allocation_id: str, what: str, body: dict[str, Any], key: str | None, *, as_json: bool
) -> None:
    """Change what was just read: whoever changes it in between makes this be refused."""
    with asking(context) as aifn:
        place = path("/v1/allocations/{}", allocation_id)
        seen = aifn.one(Allocation, SERVICE, place)
        answer = aifn.post(SERVICE, f"{place}/{what}", body, key=key, if_match=f'"r{seen.revision}"')
        if "approval_id" in answer:
            say_waiting(answer, as_json=as_json)
        elif as_json:
            put_json(answer)
        else:
            one = Allocation.of(answer)
            print_line(f"{one.allocation_id}: {one.granted} {one.unit}s granted, until {text.moment(one.ends_at)}")


def say_waiting(answer: dict[str, Any], *, as_json: bool) -> None:
    """Say that somebody else must decide first."""
    if as_json:
        put_json(answer)
    else:
        print_line(f"this waits for a second person: aifn approval decide {answer['approval_id']}")
