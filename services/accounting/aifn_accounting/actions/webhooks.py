"""Webhooks: who registers one, and how each is told of every charge, in order, at least once."""

import asyncio
import json
import secrets
from collections.abc import Sequence

from aifn_common import access
from aifn_common.cursors import write_cursor
from aifn_common.database import Database, Transaction, reading, transaction
from aifn_common.errors import Refusal
from aifn_events.usage import UsageCharged
from aifn_events.vocabulary import MAX_AMOUNT, FactoryId, ProjectId, Subject, short_id

from aifn_accounting.domain.webhooks import (
    MOST_FAILURES,
    ForbiddenAddress,
    challenge_of,
    pause_seconds,
    read_target,
    secret_of,
)
from aifn_accounting.receivers import Answer, Letter, NotReached, Receivers
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import reads
from aifn_accounting.store import webhooks as store
from aifn_accounting.store.webhooks import Attempt, Webhook

MOST_OF_ONE_OWNER = 20
RECORDS_IN_A_LETTER = 200
_LETTERS_IN_A_ROW = 10
_WEBHOOKS_AT_ONCE = 16


class NoWebhooks(Refusal):
    """This instance has no key to make secrets from."""

    code = "webhooks_switched_off"


class TooManyWebhooks(Refusal):
    """Somebody has as many webhooks as they may have."""

    code = "too_many_webhooks"


def secret(webhook: Webhook, settings: AccountingSettings) -> str:
    """What a receiver shares with us. Raises NoWebhooks."""
    return secret_of(_key(settings), webhook.id, webhook.generation)


def _key(settings: AccountingSettings) -> str:
    key = settings.webhook_key.get_secret_value()
    if not key:
        raise NoWebhooks("webhooks are switched off here: the operator has not set AIFN_WEBHOOK_KEY")
    return key


async def register(
    tx: Transaction,
    settings: AccountingSettings,
    *,
    owner: Subject,
    through: str,
    project_id: ProjectId | None,
    factory_id: FactoryId,
    url: str,
) -> Webhook:
    """Keep an address that wants to be told; it must repeat a challenge first.

    Args:
        through: what gives the right, `membership` of the project or a `role` in the factory.
        project_id: only charges of this project; None for all of the factory.
    Raises: NoWebhooks, ForbiddenAddress, TooManyWebhooks.
    """
    _key(settings)
    read_target(url, allow_private=settings.webhook_private_addresses)
    if await store.count_of(tx, owner) >= MOST_OF_ONE_OWNER:
        raise TooManyWebhooks(f"you have {MOST_OF_ONE_OWNER} webhooks already: remove one first")
    return await store.add(
        tx, short_id("hook"), owner=owner, through=through, project_id=project_id, factory_id=factory_id, url=url
    )


async def deliver_due(db: Database, settings: AccountingSettings) -> None:
    """Tell every webhook what it does not know yet; several at a time, each in order."""
    if not settings.webhook_key.get_secret_value():
        return
    async with reading(db) as tx:
        highest = await store.tip(tx)
        due = await store.list_due(tx, highest, limit=_WEBHOOKS_AT_ONCE)
    if not due:
        return
    receivers = Receivers(
        allow_private=settings.webhook_private_addresses,
        timeout_seconds=settings.webhook_timeout_seconds,
        authority=settings.webhook_authority,
    )
    try:
        await asyncio.gather(*(_serve(db, settings, receivers, one) for one in due))
    finally:
        await receivers.close()


async def _serve(db: Database, settings: AccountingSettings, receivers: Receivers, webhook: Webhook) -> None:
    if webhook.state == "unconfirmed":
        await _challenge(db, settings, receivers, webhook)
        return
    for _ in range(_LETTERS_IN_A_ROW):
        async with reading(db) as tx:
            webhook = await store.get(tx, webhook.id)
            if not await _may_still(tx, webhook):
                await store.stop(tx, webhook, "revoked", "its owner may no longer see this project's usage")
                return
            highest = await store.tip(tx)
            charges = await _charges(tx, webhook)
        if webhook.state != "active" or not await _tell(db, settings, receivers, webhook, charges, highest):
            return


async def _may_still(tx: Transaction, webhook: Webhook) -> bool:
    """A role in the factory is only known while its holder is signed in; membership is asked again each time."""
    if webhook.through == "role" or webhook.project_id is None:
        return True
    role = await store.role_of(tx, webhook.owner, webhook.project_id)
    return role is not None and "usage.read" in access.roles().get(role, {}).get("project", ())


async def _charges(tx: Transaction, webhook: Webhook) -> list[reads.Charged]:
    return await reads.list_charges(
        tx,
        everything=False,
        projects=[webhook.project_id] if webhook.project_id else [],
        factories=[] if webhook.project_id else [webhook.factory_id],
        project_id=webhook.project_id,
        after=(webhook.usage_number, webhook.allocation_number),
        limit=RECORDS_IN_A_LETTER,
    )


async def _challenge(db: Database, settings: AccountingSettings, receivers: Receivers, webhook: Webhook) -> None:
    challenge = challenge_of(_key(settings), webhook.id, webhook.generation)
    body = {"kind": "challenge", "webhook_id": webhook.id, "challenge": challenge}
    answer = await _send(db, settings, receivers, webhook, body, kind="challenge", expect=challenge)
    if answer is not None:
        async with transaction(db) as tx:
            await store.confirm(tx, webhook)


async def _tell(
    db: Database,
    settings: AccountingSettings,
    receivers: Receivers,
    webhook: Webhook,
    charges: Sequence[reads.Charged],
    highest: int,
) -> bool:
    """Tell one webhook the next charges; whether there may be more. `highest` was read before the charges were."""
    full = len(charges) == RECORDS_IN_A_LETTER
    # Below what was the highest there is nothing more for this one: it need not be looked for again.
    place = (charges[-1].usage_number, charges[-1].allocation_number) if full else (highest, MAX_AMOUNT)
    if charges:
        place = max(place, (charges[-1].usage_number, charges[-1].allocation_number))
        body = {
            "kind": "usage",
            "webhook_id": webhook.id,
            "items": [event_of(one).model_dump(mode="json") for one in charges],
            "next": cursor_of(charges[-1]),
        }
        if await _send(db, settings, receivers, webhook, body, kind="usage", charges=charges) is None:
            return False
    async with transaction(db) as tx:
        await store.advance(tx, webhook, place)
    return full


async def _send(
    db: Database,
    settings: AccountingSettings,
    receivers: Receivers,
    webhook: Webhook,
    body: object,
    *,
    kind: str,
    charges: Sequence[reads.Charged] = (),
    expect: str | None = None,
) -> Answer | None:
    """Send one letter and log what became of it; None if it must be sent again. No transaction is open meanwhile."""
    letter = Letter(webhook.url, webhook.id, secret(webhook, settings), json.dumps(body).encode())
    answer: Answer | None = None
    address: str | None = None
    try:
        answer = await receivers.send(letter)
        outcome = _judge(answer, expect)
        address = answer.address
    except NotReached as fault:
        outcome, address = str(fault), fault.address
    except ForbiddenAddress as refusal:
        outcome = str(refusal)
    async with transaction(db) as tx:
        await store.log_attempt(
            tx,
            webhook.id,
            Attempt(
                kind,
                webhook.failures + 1,
                len(charges),
                cursor_of(charges[0]) if charges else None,
                cursor_of(charges[-1]) if charges else None,
                address,
                answer.status if answer else None,
                outcome,
                answer.took_ms if answer else 0,
            ),
        )
        if outcome != "accepted":
            failures = webhook.failures + 1
            await store.put_failure(tx, webhook, failures=failures, pause=pause_seconds(failures))
            if failures >= MOST_FAILURES:
                await store.stop(tx, webhook, "paused", f"{failures} calls in a row failed, the last: {outcome}")
            return None
    return answer


def _judge(answer: Answer, expect: str | None) -> str:
    if not 200 <= answer.status < 300:
        return f"answered {answer.status}" + (", redirects are not followed" if 300 <= answer.status < 400 else "")
    if expect is None:
        return "accepted"
    try:
        said = json.loads(answer.body)
    except (ValueError, RecursionError):
        said = None
    repeated = said.get("challenge") if isinstance(said, dict) else None
    if isinstance(repeated, str) and secrets.compare_digest(repeated.encode(), expect.encode()):
        return "accepted"
    return "did not repeat the challenge"


def cursor_of(one: reads.Charged) -> str:
    """The place of a charge, as `GET /v1/usage-events?after=` takes it."""
    return write_cursor(f"{one.usage_number}-{one.allocation_number}")


def event_of(one: reads.Charged) -> UsageCharged:
    """A charge as the public contract says it."""
    return UsageCharged(
        machine_id=one.machine_id,
        local_job_id=one.local_job_id,
        submitted_at=one.submitted_at,
        segment=one.segment,
        revision=one.revision,
        job_id=one.job_id,
        project_id=one.project_id,
        allocation_id=one.allocation_id,
        resource=one.resource,
        amount=one.amount,
        rate_card=one.rate_card,
        ended_at=one.ended_at,
        user=one.user,
    )
