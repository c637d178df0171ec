"""`aifn webhook`: addresses that are told of every charge."""

from typing import Annotated

import typer

from aifn_client.commands.accounting import SERVICE
from aifn_client.http import path
from aifn_client.output_models import Delivery, NewWebhook, Webhook
from aifn_client.screen import ROWS, All, AsJson, Column, Limit, asking, bound, note, print_line, show_list, show_one

webhooks = typer.Typer(name="webhook", help="Addresses that are told of every charge.", no_args_is_help=True)

_WEBHOOKS = (
    Column[Webhook]("webhook", lambda one: one.webhook_id, whole=True),
    Column[Webhook]("project", lambda one: one.project_id or "all"),
    Column[Webhook]("state", lambda one: one.state),
    Column[Webhook]("url", lambda one: one.url),
    Column[Webhook]("failures", lambda one: one.failures, right=True, wide=True),
)
_DELIVERIES = (
    Column[Delivery]("no.", lambda one: one.number, right=True),
    Column[Delivery]("when", lambda one: one.at),
    Column[Delivery]("what", lambda one: one.kind),
    Column[Delivery]("charges", lambda one: one.records, right=True),
    Column[Delivery]("status", lambda one: one.status, right=True),
    Column[Delivery]("outcome", lambda one: one.outcome),
    Column[Delivery]("ms", lambda one: one.took_ms, right=True, wide=True),
)


@webhooks.command("list")
def list_webhooks(
    context: typer.Context, limit: Limit = ROWS, everything: All = False, as_json: AsJson = False
) -> None:
    """Your own, or all of your factory."""
    with asking(context) as aifn:
        found = aifn.many(Webhook, SERVICE, "/v1/webhooks", at_most=bound(limit, everything))
        show_list(found, _WEBHOOKS, as_json=as_json, limit=limit, everything=everything, nothing="there is no webhook")


@webhooks.command("show")
def show_webhook(context: typer.Context, webhook_id: str, as_json: AsJson = False) -> None:
    """One webhook, and why it is in its state."""
    with asking(context) as aifn:
        _show(aifn.one(Webhook, SERVICE, path("/v1/webhooks/{}", webhook_id)), as_json=as_json)


@webhooks.command("add")
def add_webhook(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="https, on the public Internet.")],
    project: Annotated[str | None, typer.Option(help="Only of this project; else of the whole factory.")] = None,
    as_json: AsJson = False,
) -> None:
    """Have an address told of every charge; prints the secret that its letters are signed with, this once."""
    with asking(context) as aifn:
        made = NewWebhook.of(aifn.post(SERVICE, "/v1/webhooks", {"url": url, "project_id": project}))
        _show(made, as_json=as_json, secret=made.secret)


@webhooks.command("secret")
def renew_secret(context: typer.Context, webhook_id: str, as_json: AsJson = False) -> None:
    """Give a webhook another secret, which its address must confirm."""
    with asking(context) as aifn:
        made = NewWebhook.of(aifn.post(SERVICE, path("/v1/webhooks/{}/secret", webhook_id)))
        _show(made, as_json=as_json, secret=made.secret)


@webhooks.command("replay")
def replay_webhook(
    context: typer.Context,
    webhook_id: str,
    after: Annotated[str | None, typer.Option(help="`next` of a letter; else from the first charge on.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell an address everything again; one that was paused goes on."""
    with asking(context) as aifn:
        told = aifn.post(SERVICE, path("/v1/webhooks/{}/replay", webhook_id), {"after": after})
        _show(Webhook.of(told), as_json=as_json)


@webhooks.command("resume")
def resume_webhook(context: typer.Context, webhook_id: str, as_json: AsJson = False) -> None:
    """Let a paused webhook go on from where it stopped."""
    with asking(context) as aifn:
        _show(Webhook.of(aifn.post(SERVICE, path("/v1/webhooks/{}/resume", webhook_id))), as_json=as_json)


@webhooks.command("remove")
def remove_webhook(context: typer.Context, webhook_id: str) -> None:
    """Tell an address nothing more."""
    with asking(context) as aifn:
        aifn.delete(SERVICE, path("/v1/webhooks/{}", webhook_id))
        print_line(f"{webhook_id} is removed")


@webhooks.command("log")
def show_log(
    context: typer.Context, webhook_id: str, limit: Limit = ROWS, everything: All = False, as_json: AsJson = False
) -> None:
    """What became of its letters, newest first."""
    with asking(context) as aifn:
        place = path("/v1/webhooks/{}/deliveries", webhook_id)
        found = aifn.many(Delivery, SERVICE, place, at_most=bound(limit, everything))
        show_list(found, _DELIVERIES, as_json=as_json, limit=limit, everything=everything, nothing="no letter yet")


def _show(one: Webhook, *, as_json: bool, secret: str | None = None) -> None:
    rows = (
        ("webhook", one.webhook_id),
        ("url", one.url),
        ("project", one.project_id or "all"),
        ("state", f"{one.state}: {one.state_reason}"),
        ("failures", one.failures or None),
        ("secret", secret),
    )
    show_one(one, rows, as_json=as_json)
    if secret and not as_json:
        note("keep the secret: it is not shown again")
