"""Webhooks over HTTP: register an address, see what became of its letters, have them sent again."""

from typing import Annotated

from aifn_common import access
from aifn_common.cursors import read_cursor
from aifn_common.errors import Invalid
from aifn_common.web import Page, Paging, Tx, Who, make_page, make_router, settings_of
from aifn_events.vocabulary import MAX_AMOUNT
from fastapi import Depends, Path, Response

from aifn_accounting.actions import webhooks
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import ledger
from aifn_accounting.store import webhooks as store
from aifn_accounting.webhook_views import (
    WEBHOOK_ID,
    DeliveryView,
    NewWebhookView,
    ReplayWords,
    WebhookView,
    WebhookWords,
)

router = make_router()
Settings = Annotated[AccountingSettings, Depends(settings_of)]
WebhookId = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", examples=[WEBHOOK_ID])]


def place_in(after: str | None) -> tuple[int, int]:
    """The place in the list of charges that a cursor stands for, the very beginning for none. Raises Invalid."""
    if after is None:
        return (0, 0)
    parts = read_cursor(after).split("-")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):
        raise Invalid("`after` is not a cursor that a page of this list gave")
    place = (int(parts[0]), int(parts[1]))
    if max(place) > MAX_AMOUNT:
        raise Invalid("`after` is not a cursor that a page of this list gave")
    return place


def _must(who: access.Who, permission: str, webhook: store.Webhook) -> None:
    """Its owner as a member of its project, and the administrators of its factory."""
    own = webhook.through == "membership" and webhook.owner == who.subject
    who.must(permission, project=webhook.project_id if own else None, factory=webhook.factory_id)


@router.post("/webhooks", status_code=201, summary="Have an address told of every charge", tags=["webhooks"])
async def register_webhook(
    words: WebhookWords, tx: Tx, who: Who, settings: Settings, response: Response
) -> NewWebhookView:
    """Begins with a challenge, which the address must repeat; then come all charges from the first record on, in order.

    The secret is shown here and nowhere else. How to check a letter: docs/usage-events.md.
    """
    factory_id = settings.factory
    if words.project_id is not None:
        project = await ledger.find_project(tx, words.project_id)
        factory_id = project.factory_id if project else factory_id
    through = "role" if who.may("webhook.write", factory=factory_id) else "membership"
    who.must("webhook.write", project=words.project_id, factory=factory_id)
    if words.project_id is not None:
        await ledger.get_project(tx, words.project_id)
    made = await webhooks.register(
        tx,
        settings,
        owner=who.subject,
        through=through,
        project_id=words.project_id,
        factory_id=factory_id,
        url=words.url,
    )
    response.headers["location"] = f"/v1/webhooks/{made.id}"
    return NewWebhookView.with_secret(made, webhooks.secret(made, settings))


@router.get("/webhooks", summary="Webhooks you may see", tags=["webhooks"])
async def list_webhooks(tx: Tx, who: Who, page: Paging) -> Page[WebhookView]:
    """Your own, or all of your factory, in the order of their ids."""
    scope = who.scope("webhook.read")
    found = await store.list_webhooks(
        tx,
        everything=scope.everything,
        factories=scope.factories,
        owner=who.subject,
        projects=scope.projects,
        after=page.after,
        limit=page.limit + 1,
    )
    return make_page([WebhookView.of(one) for one in found], page.limit, lambda view: view.webhook_id)


@router.get("/webhooks/{webhook_id}", summary="One webhook", tags=["webhooks"])
async def get_webhook(webhook_id: WebhookId, tx: Tx, who: Who) -> WebhookView:
    """Its state, and why it is so."""
    found = await store.get(tx, webhook_id)
    _must(who, "webhook.read", found)
    return WebhookView.of(found)


@router.delete("/webhooks/{webhook_id}", status_code=204, summary="Remove a webhook", tags=["webhooks"])
async def remove_webhook(webhook_id: WebhookId, tx: Tx, who: Who) -> Response:
    """With its log."""
    _must(who, "webhook.write", await store.get(tx, webhook_id))
    await store.remove(tx, webhook_id)
    return Response(status_code=204)


@router.post("/webhooks/{webhook_id}/replay", summary="Tell a webhook again", tags=["webhooks"])
async def replay_webhook(webhook_id: WebhookId, words: ReplayWords, tx: Tx, who: Who) -> WebhookView:
    """Everything after a place, or everything there ever was; a paused webhook goes on from there."""
    found = await store.get(tx, webhook_id)
    _must(who, "webhook.write", found)
    return WebhookView.of(await store.rewind(tx, webhook_id, place_in(words.after)))


@router.post("/webhooks/{webhook_id}/resume", summary="Let a paused webhook go on", tags=["webhooks"])
async def resume_webhook(webhook_id: WebhookId, tx: Tx, who: Who) -> WebhookView:
    """From where it stopped; one that is not paused is called at once instead of after its pause."""
    found = await store.get(tx, webhook_id)
    _must(who, "webhook.write", found)
    return WebhookView.of(await store.rewind(tx, webhook_id, (found.usage_number, found.allocation_number)))


@router.post("/webhooks/{webhook_id}/secret", summary="Give a webhook another secret", tags=["webhooks"])
async def renew_secret(webhook_id: WebhookId, tx: Tx, who: Who, settings: Settings) -> NewWebhookView:
    """The old one signs nothing more. The address must repeat a new challenge before it is told anything."""
    found = await store.get(tx, webhook_id)
    _must(who, "webhook.write", found)
    renewed = await store.new_secret(tx, webhook_id)
    return NewWebhookView.with_secret(renewed, webhooks.secret(renewed, settings))


@router.get("/webhooks/{webhook_id}/deliveries", summary="What became of a webhook's letters", tags=["webhooks"])
async def list_deliveries(webhook_id: WebhookId, tx: Tx, who: Who, page: Paging) -> Page[DeliveryView]:
    """Newest first."""
    _must(who, "webhook.read", await store.get(tx, webhook_id))
    before = None if page.after is None else page.after
    if before is not None and not (before.isascii() and before.isdigit() and len(before) < 19):
        raise Invalid("`after` is not a cursor that a page of this list gave")
    found = await store.list_deliveries(
        tx, webhook_id, before=None if before is None else int(before), limit=page.limit + 1
    )
    return make_page([DeliveryView.of(one) for one in found], page.limit, lambda view: str(view.number))
