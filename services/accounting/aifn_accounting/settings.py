"""What accounting may be told beside what every service is told."""

from typing import Annotated, ClassVar

from aifn_common.settings import Logged, ServiceSettings
from pydantic import Field, SecretStr


class AccountingSettings(ServiceSettings):
    """Settings of accounting. Each is an environment variable `AIFN_<NAME>`."""

    logged: ClassVar[Logged | None] = Logged(
        deciding=frozenset({"factory", "period_grace_hours", "second_person_above", "second_person_funding_above"}),
        aside=("/v1/webhooks", "/v1/dead-letters"),
    )

    pseudonym_key: SecretStr = Field(
        min_length=16,
        description="secret from which people's pseudonyms in charges are made; a new one gives everybody a new name",
        examples=["a-long-random-secret"],
    )
    usage_day_grace_seconds: int = Field(
        default=3600,
        ge=0,
        le=30 * 86_400,
        description="how long after the last word on a day that is over it is compared with its site's statement",
        examples=["3600"],
    )
    period_grace_hours: int = Field(
        default=24, ge=0, le=2400, description="how long after its end a month cannot be closed yet", examples=["24"]
    )
    webhook_key: SecretStr = Field(
        default=SecretStr(""),
        description="secret from which each webhook's secret is made; empty: no webhooks; a new one ends all of them",
        examples=["another-long-random-secret"],
    )
    webhook_private_addresses: bool = Field(
        default=False,
        description="whether webhooks may lead to private and loopback addresses, and over plain HTTP",
        examples=["false"],
    )
    webhook_authority: str = Field(
        default="",
        description="PEM file of the certificates that webhooks' receivers must have; empty: the public ones",
        examples=["/etc/aifn/receivers-ca.pem"],
    )
    webhook_timeout_seconds: float = Field(
        default=10, gt=0, le=60, description="how long one call of a webhook may take", examples=["10"]
    )
    webhook_log_days: int = Field(
        default=30, ge=1, le=3650, description="how long the log of deliveries is kept", examples=["30"]
    )
    stream_seconds: float = Field(
        default=900,
        ge=0,
        le=86_400,
        description="how long an event stream lives before its reader must show a token again; 0: only what is there",
        examples=["900"],
    )
    second_person_above: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default={},
        description=(
            "grants and corrections by people above so much wait for a second person: JSON by unit, compute as"
            " `node-hour`"
        ),
        examples=['{"node-hour": 50000, "credit": 1000000}'],
    )
    second_person_funding_above: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default={},
        description="what brings a pool above so much in all waits for a second person: JSON by unit, as above",
        examples=['{"node-hour": 10000000}'],
    )
    expiry_grace_days: int = Field(
        default=30,
        ge=0,
        le=3650,
        description="so long after its end an allocation keeps what is left, for usage that comes late",
        examples=["30"],
    )
