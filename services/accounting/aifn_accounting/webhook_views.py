"""What accounting shows of webhooks and takes for them over HTTP."""

from datetime import datetime
from typing import Self

from aifn_events.vocabulary import FactoryId, ProjectId, Subject
from pydantic import BaseModel, Field

from aifn_accounting.store.webhooks import Delivery, Webhook
from aifn_accounting.views import Words

WEBHOOK_ID = "hook-0198c7d2a1b3-4f2a9c"


class WebhookWords(Words):
    """Where to tell of charges."""

    url: str = Field(
        min_length=1,
        max_length=2000,
        description="https, on the public Internet",
        examples=["https://portal.example.eu/aifn"],
    )
    project_id: ProjectId | None = Field(default=None, description="null: all charges of the factory")


class ReplayWords(Words):
    """From where to tell again."""

    after: str | None = Field(
        default=None, max_length=1000, description="`next` of a letter or a page; null: from the first record on"
    )


class WebhookView(BaseModel):
    """A webhook; its secret was shown once."""

    webhook_id: str = Field(examples=[WEBHOOK_ID])
    owner: Subject
    project_id: ProjectId | None = Field(description="null: all charges of the factory")
    factory_id: FactoryId
    url: str = Field(examples=["https://portal.example.eu/aifn"])
    state: str = Field(description="unconfirmed, active, paused or revoked", examples=["active"])
    state_reason: str = Field(examples=["repeated its challenge"])
    failures: int = Field(description="calls in a row that failed", examples=[0])
    next_attempt_at: datetime
    created_at: datetime

    @classmethod
    def of(cls, one: Webhook) -> Self:
        """Show a webhook."""
        return cls(
            webhook_id=one.id,
            owner=one.owner,
            project_id=one.project_id,
            factory_id=one.factory_id,
            url=one.url,
            state=one.state,
            state_reason=one.state_reason,
            failures=one.failures,
            next_attempt_at=one.next_attempt_at,
            created_at=one.created_at,
        )


class NewWebhookView(WebhookView):
    """A webhook with the secret that its letters are signed with, shown this once."""

    secret: str = Field(description="the key of hmac-sha256: these characters as they are", examples=["0" * 64])

    @classmethod
    def with_secret(cls, one: Webhook, secret: str) -> Self:
        """Show a webhook and its secret."""
        return cls(**WebhookView.of(one).model_dump(), secret=secret)


class DeliveryView(BaseModel):
    """One call to a receiver."""

    number: int = Field(examples=[1])
    kind: str = Field(description="challenge or usage", examples=["usage"])
    attempt: int = Field(description="1 is the first, of those in a row that failed", examples=[1])
    records: int = Field(examples=[12])
    first: str | None = Field(description="place of the first charge in the letter")
    last: str | None = Field(description="place of the last charge in the letter")
    address: str | None = Field(description="where the call went", examples=["193.166.1.1"])
    status: int | None = Field(description="null: no answer", examples=[204])
    outcome: str = Field(examples=["accepted"])
    took_ms: int = Field(examples=[35])
    at: datetime

    @classmethod
    def of(cls, one: Delivery) -> Self:
        """Show a line of the log."""
        return cls(**vars(one))
