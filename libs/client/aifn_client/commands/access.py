"""`aifn mode`, `call` and `application`: how one gets computing time, and who got it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from aifn_client import text
from aifn_client.errors import Misuse
from aifn_client.http import path
from aifn_client.models import Application, Call, Finding, Mode
from aifn_client.screen import (
    ROWS,
    All,
    AsJson,
    Column,
    Limit,
    asking,
    bound,
    print_table,
    show_list,
    show_one,
)

SERVICE = "scheduler"
modes = typer.Typer(name="mode", help="Access modes: ways to computing time.", no_args_is_help=True)
calls = typer.Typer(name="call", help="Calls that take applications.", no_args_is_help=True)
applications = typer.Typer(name="application", help="Applications for computing time.", no_args_is_help=True)

Key = Annotated[str | None, typer.Option("--key", help="Done once for one key, however often this is run.")]


def _months(mode: Mode) -> object:
    return mode.duration_months and "/".join(str(month) for month in mode.duration_months)


_MODES = (
    Column[Mode]("mode", lambda one: one.mode_id, whole=True),
    Column[Mode]("name", lambda one: one.name),
    Column[Mode]("status", lambda one: one.status),
    Column[Mode]("GPU-hours", lambda one: one.gpu_hours),
    Column[Mode]("months", _months),
    Column[Mode]("for", lambda one: one.applicant_kinds, wide=True),
    Column[Mode]("decided by", lambda one: one.deciding_authority, wide=True),
)
_CALLS = (
    Column[Call]("call", lambda one: one.call_id, whole=True),
    Column[Call]("mode", lambda one: one.mode),
    Column[Call]("policy", lambda one: one.policy_version, wide=True),
    Column[Call]("pool", lambda one: one.pool),
    Column[Call]("check", lambda one: one.technical_check),
    Column[Call]("opens", lambda one: one.opens_at),
    Column[Call]("closes", lambda one: one.closes_at or "no cut-off"),
    Column[Call]("partitions", lambda one: one.partitions or "any", wide=True),
)


def _amounts(application: Application) -> str:
    return text.lines(f"{ask.gpu_hours} GPU-hours on {ask.partition_id}" for ask in application.asks)


_APPLICATIONS = (
    Column[Application]("application", lambda one: one.application_id, whole=True),
    Column[Application]("call", lambda one: one.call_id),
    Column[Application]("by", lambda one: one.organisation.name),
    Column[Application]("asks for", _amounts),
    Column[Application]("state", lambda one: one.state),
    Column[Application]("project", lambda one: one.award and one.award.project_id),
    Column[Application]("submitted", lambda one: one.submitted_at, wide=True),
)
_FINDINGS = (
    Column[Finding]("rule", lambda one: one.rule),
    Column[Finding]("says", lambda one: one.word),
    Column[Finding]("because", lambda one: one.because),
    Column[Finding]("source", lambda one: one.source, wide=True),
)


@modes.command("list")
def list_modes(context: typer.Context, limit: Limit = ROWS, everything: All = False, as_json: AsJson = False) -> None:
    """Access modes as their published calls describe them."""
    with asking(context) as aifn:
        found = aifn.many(Mode, SERVICE, "/v1/modes", at_most=bound(limit, everything))
        show_list(found, _MODES, as_json=as_json, limit=limit, everything=everything)


@modes.command("show")
def show_mode(context: typer.Context, mode_id: str, as_json: AsJson = False) -> None:
    """One access mode: for whom, how much, who decides, what it obliges to."""
    with asking(context) as aifn:
        one = aifn.one(Mode, SERVICE, path("/v1/modes/{}", mode_id))
        rows = (
            ("mode", one.mode_id),
            ("name", one.name),
            ("status", one.status),
            ("policy", one.policy_version),
            ("for", one.applicant_kinds),
            ("not for", one.excluded_kinds),
            ("purpose", one.purpose),
            ("GPU-hours", one.gpu_hours),
            ("months", _months(one)),
            ("conditions", one.conditions),
            ("order", one.ordering),
            ("decided by", one.deciding_authority),
            ("pool", one.pool),
            ("support", one.support_level),
            ("obligations", one.obligations),
            ("notes", one.notes),
            ("source", text.lines(one.source)),
        )
        show_one(one, rows, as_json=as_json)


@calls.command("list")
def list_calls(context: typer.Context, limit: Limit = ROWS, everything: All = False, as_json: AsJson = False) -> None:
    """Calls that take applications."""
    with asking(context) as aifn:
        found = aifn.many(Call, SERVICE, "/v1/calls", at_most=bound(limit, everything))
        show_list(found, _CALLS, as_json=as_json, limit=limit, everything=everything)


@applications.command("submit")
def submit_application(
    context: typer.Context,
    call: Annotated[str | None, typer.Option(help="See `aifn call list`.")] = None,
    title: Annotated[str | None, typer.Option(help="What it is about.")] = None,
    organisation: Annotated[str | None, typer.Option(help="Who applies.")] = None,
    kind: Annotated[str | None, typer.Option(help="What the applicant is: startup, sme, academia, ...")] = None,
    country: Annotated[str | None, typer.Option(help="Where it is established, two letters.")] = None,
    staff: Annotated[int | None, typer.Option(min=0, help="How many work there.")] = None,
    turnover_eur: Annotated[int | None, typer.Option(min=0, help="Per year; leave out if not stated.")] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option(metavar="PARTITION=GPU-HOURS", help="How much on which partition; may be repeated."),
    ] = None,
    months: Annotated[int | None, typer.Option(min=1, help="For how long.")] = None,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATEMENT", help="What the applicant declares, e.g. civilian_use; repeat it."),
    ] = None,
    contact: Annotated[str | None, typer.Option(help="Whom to write to.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="All of this as JSON, as the API takes it; options win.", dir_okay=False)
    ] = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Apply under a call. Every rule answers at once, and is cited."""
    with asking(context) as aifn:
        body = read_body(file)
        told = {"call_id": call, "title": title, "months": months, "contact": contact}
        body |= {name: value for name, value in told.items() if value is not None}
        applicant = {
            "name": organisation, "kind": kind, "country": country, "staff": staff, "turnover_eur": turnover_eur,
        }  # fmt: skip
        told_of_applicant = {name: value for name, value in applicant.items() if value is not None}
        if told_of_applicant:
            body["organisation"] = {**body.get("organisation", {}), **told_of_applicant}
        if ask:
            body["asks"] = [_ask(words) for words in ask]
        body["statements"] = {**body.get("statements", {}), **dict.fromkeys(state or (), True)}
        _show(Application.of(aifn.post(SERVICE, "/v1/applications", body, key=key)), as_json=as_json)


def _ask(words: str) -> dict[str, Any]:
    partition, equals, hours = words.partition("=")
    if not (equals and partition and hours.isascii() and hours.isdigit()):
        raise Misuse(f"{words!r} does not say how much where", advice="write it as --ask lumi-g=5000, in GPU-hours")
    return {"partition_id": partition, "gpu_hours": int(hours)}


def read_body(file: Path | None) -> dict[str, Any]:
    """The JSON object in a file, empty without one. Raises Misuse."""
    if file is None:
        return {}
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except OSError as fault:
        raise Misuse(f"{file} cannot be read: {fault.strerror}") from None
    except ValueError as wrong:
        raise Misuse(f"{file} is no JSON: {wrong}") from None
    if not isinstance(body, dict):
        raise Misuse(f"{file} holds no JSON object")
    return body


@applications.command("list")
def list_applications(
    context: typer.Context,
    call: Annotated[str | None, typer.Option(help="Only under this call.")] = None,
    state: Annotated[str | None, typer.Option(help="refused, eligible or awarded.")] = None,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Your applications; those of the factory for its access managers. Oldest first."""
    with asking(context) as aifn:
        found = aifn.many(
            Application, SERVICE, "/v1/applications", at_most=bound(limit, everything), call_id=call, state=state
        )
        show_list(
            found, _APPLICATIONS, as_json=as_json, limit=limit, everything=everything, nothing="no application fits"
        )


@applications.command("show")
def show_application(context: typer.Context, application_id: str, as_json: AsJson = False) -> None:
    """One application, and what every rule said of it."""
    with asking(context) as aifn:
        _show(aifn.one(Application, SERVICE, path("/v1/applications/{}", application_id)), as_json=as_json)


@applications.command("award")
def award_application(
    context: typer.Context,
    application_id: str,
    reason: Annotated[str, typer.Option(help="Why, for those who ask later.")],
    as_json: AsJson = False,
) -> None:
    """Grant an application after its technical check, as an access manager."""
    with asking(context) as aifn:
        answer = aifn.post(SERVICE, path("/v1/applications/{}/award", application_id), {"reason": reason})
        _show(Application.of(answer), as_json=as_json)


def _show(one: Application, *, as_json: bool) -> None:
    award = one.award
    rows = (
        ("application", one.application_id),
        ("title", one.title),
        ("call", one.call_id),
        ("by", f"{one.organisation.name}, {one.organisation.kind}, {one.organisation.country}"),
        ("submitted", f"{text.moment(one.submitted_at)} by {one.submitted_by}"),
        ("asks for", f"{_amounts(one)} for {text.count(one.months, 'month')}"),
        ("state", one.state),
        ("earlier ones", one.waiting_before),
        ("project", award and award.project_id),
        ("awarded", award and f"{text.moment(award.awarded_at)} by {award.awarded_by}"),
        ("because", award and award.reason),
    )
    show_one(one, rows, as_json=as_json)
    if not as_json and one.findings:
        print_table(one.findings, _FINDINGS, title="what every rule said")
