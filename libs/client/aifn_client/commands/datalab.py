"""`aifn dataset` and `access`: data on offer, and requests to use them."""

from pathlib import Path
from typing import Annotated

import typer

from aifn_client import text
from aifn_client.commands.access import read_body
from aifn_client.http import path
from aifn_client.models import AccessRequest, Dataset, Finding
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

SERVICE = "datalab"
datasets = typer.Typer(name="dataset", help="Datasets on offer.", no_args_is_help=True)
requests = typer.Typer(name="access", help="Requests to use a dataset.", no_args_is_help=True)

_DATASETS = (
    Column[Dataset]("dataset", lambda one: one.dataset_id, whole=True),
    Column[Dataset]("title", lambda one: one.title),
    Column[Dataset]("licence", lambda one: one.licence),
    Column[Dataset]("sensitivity", lambda one: one.sensitivity),
    Column[Dataset]("may lie in", lambda one: one.residency or "anywhere"),
    Column[Dataset]("size", lambda one: text.size(one.size_bytes), right=True),
    Column[Dataset]("grade", lambda one: one.grade, wide=True),
    Column[Dataset]("brokered by", lambda one: one.factory_id, wide=True),
)
_REQUESTS = (
    Column[AccessRequest]("request", lambda one: one.request_id, whole=True),
    Column[AccessRequest]("dataset", lambda one: one.dataset_id),
    Column[AccessRequest]("project", lambda one: one.project_id),
    Column[AccessRequest]("state", lambda one: one.state),
    Column[AccessRequest]("waits for", lambda one: one.waits_for),
    Column[AccessRequest]("in force", lambda one: one.in_force),
    Column[AccessRequest]("asked", lambda one: one.requested_at, wide=True),
)
_FINDINGS = (
    Column[Finding]("rule", lambda one: one.rule),
    Column[Finding]("says", lambda one: one.word),
    Column[Finding]("because", lambda one: one.because),
    Column[Finding]("source", lambda one: one.source, wide=True),
)


@datasets.command("list")
def list_datasets(
    context: typer.Context,
    words: Annotated[str | None, typer.Option("--search", help="Beginnings of words.")] = None,
    licence: Annotated[str | None, typer.Option(help="Exactly this licence.")] = None,
    sensitivity: Annotated[str | None, typer.Option(help="open, personal, ...")] = None,
    residency: Annotated[str | None, typer.Option(help="May lie in this country, two letters.")] = None,
    retired: Annotated[bool, typer.Option("--retired", help="Retired ones too.")] = False,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Datasets by name."""
    with asking(context) as aifn:
        found = aifn.many(
            Dataset, SERVICE, "/v1/datasets", at_most=bound(limit, everything),
            q=words, licence=licence, sensitivity=sensitivity, residency=residency, retired=retired or None,
        )  # fmt: skip
        show_list(found, _DATASETS, as_json=as_json, limit=limit, everything=everything, nothing="no dataset fits")


@datasets.command("show")
def show_dataset(context: typer.Context, dataset_id: str, as_json: AsJson = False) -> None:
    """One dataset: terms, place, contact."""
    with asking(context) as aifn:
        _show_dataset(aifn.one(Dataset, SERVICE, path("/v1/datasets/{}", dataset_id)), as_json=as_json)


@datasets.command("register")
def register_dataset(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The description as JSON, as the API takes it.", dir_okay=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Put a dataset on offer, as a data steward. The data stay where they are."""
    with asking(context) as aifn:
        _show_dataset(Dataset.of(aifn.post(SERVICE, "/v1/datasets", read_body(file))), as_json=as_json)


@datasets.command("request")
def request_dataset(
    context: typer.Context,
    dataset_id: str,
    project: Annotated[str, typer.Option(help="The project that would use it.")],
    purpose: Annotated[str, typer.Option(help="What for; needed for all but open data.")] = "",
    legal_basis: Annotated[str | None, typer.Option(help="Of GDPR Article 6(1); needed for personal data.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask to use a dataset. Rules that can answer do so at once, and are cited."""
    with asking(context) as aifn:
        body = {"dataset_id": dataset_id, "project_id": project, "purpose": purpose, "legal_basis": legal_basis}
        _show_request(AccessRequest.of(aifn.post(SERVICE, "/v1/access-requests", body)), as_json=as_json)


@requests.command("list")
def list_requests(
    context: typer.Context,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only for this dataset.")] = None,
    state: Annotated[str | None, typer.Option(help="pending, granted, refused, ...")] = None,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Requests of your projects, or of your factory's Data Lab; oldest first."""
    with asking(context) as aifn:
        found = aifn.many(
            AccessRequest, SERVICE, "/v1/access-requests", at_most=bound(limit, everything),
            project_id=project, dataset_id=dataset, state=state,
        )  # fmt: skip
        show_list(found, _REQUESTS, as_json=as_json, limit=limit, everything=everything, nothing="no request fits")


@requests.command("show")
def show_request(context: typer.Context, request_id: str, as_json: AsJson = False) -> None:
    """One request, with every rule that was looked at."""
    with asking(context) as aifn:
        _show_request(aifn.one(AccessRequest, SERVICE, path("/v1/access-requests/{}", request_id)), as_json=as_json)


@requests.command("decide")
def decide_request(
    context: typer.Context,
    request_id: str,
    granted: Annotated[bool, typer.Option("--grant/--refuse", help="The decision.")],
    reason: Annotated[str, typer.Option(help="Why, for those who ask later.")],
    as_json: AsJson = False,
) -> None:
    """Decide as a data steward."""
    with asking(context) as aifn:
        body = {"granted": granted, "reason": reason}
        answer = aifn.post(SERVICE, path("/v1/access-requests/{}/decision", request_id), body)
        _show_request(AccessRequest.of(answer), as_json=as_json)


def _show_dataset(one: Dataset, *, as_json: bool) -> None:
    rows = (
        ("dataset", one.dataset_id),
        ("title", one.title),
        ("about", one.description),
        ("licence", one.licence),
        ("sensitivity", one.sensitivity),
        ("grade", one.grade),
        ("legal basis", one.legal_basis),
        ("may lie in", one.residency or "anywhere in the network"),
        ("lies at", one.location),
        ("size", text.size(one.size_bytes)),
        ("brokered by", one.factory_id),
        ("contact", one.contact),
        ("retired", one.retired or None),
        ("changed", one.changed_at),
    )
    show_one(one, rows, as_json=as_json)


def _show_request(one: AccessRequest, *, as_json: bool) -> None:
    rows = (
        ("request", one.request_id),
        ("dataset", one.dataset_id),
        ("project", one.project_id),
        ("purpose", one.purpose),
        ("asked", f"{text.moment(one.requested_at)} by {one.requested_by}"),
        ("state", one.state),
        ("waits for", one.waits_for),
        ("decided by", one.steward or one.decided_by),
        ("because", one.steward_reason),
        ("in force", one.in_force),
        ("until", one.expires_at),
    )
    show_one(one, rows, as_json=as_json)
    if not as_json and one.reasons:
        print_table(one.reasons, _FINDINGS, title="what every rule said")
