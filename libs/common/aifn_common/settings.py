"""What every service may be told: read once from the environment, in app.py, and passed down."""

from typing import Self, TypeVar

from pydantic import AwareDatetime, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from aifn_common.clock import SimulatedClock


class WrongSetting(Exception):
    """A setting is missing or makes no sense; the message names the variable and shows an example."""


class ServiceSettings(BaseSettings):
    """Settings all services share. Each is an environment variable `AIFN_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="AIFN_", extra="ignore", frozen=True)

    factory: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="whose instance this is", examples=["lumi-aif"]
    )
    database_url: SecretStr = Field(
        description="this service's own database", examples=["postgresql://accounting:secret@db:5432/accounting"]
    )
    kafka: str = Field(description="bootstrap servers", examples=["kafka:9092"])
    oidc_issuer: str = Field(
        default="", description="who signs bearer tokens", examples=["https://login.example.eu/realms/aif"]
    )
    host: str = Field(default="127.0.0.1", description="where to listen", examples=["0.0.0.0"])  # noqa: S104
    port: int = Field(default=8000, ge=0, le=65535, description="where to listen", examples=["8000"])
    instance: str = Field(
        default="",
        description="name of this replica, kept over restarts: static group membership",
        examples=["accounting-worker-0"],
    )
    database_connections: int = Field(
        default=8, ge=2, le=100, description="most connections to the database", examples=["8"]
    )
    dead_letter_limit: int = Field(
        default=100, ge=1, description="so many dead letters in a row stop a subscription", examples=["100"]
    )
    relay_poll_seconds: float = Field(
        default=0.1, gt=0, le=60, description="how often the outbox is looked at", examples=["0.1"]
    )
    stall_seconds: float = Field(
        default=60, gt=0, description="no progress for so long, with messages waiting, is a fault", examples=["60"]
    )
    graceful_seconds: float = Field(
        default=45, gt=0, description="how long running work may take to end", examples=["45"]
    )
    max_body_bytes: int = Field(default=1_048_576, ge=1024, description="largest request body", examples=["1048576"])
    log_level: str = Field(
        default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="least severity logged", examples=["INFO"]
    )
    otlp_endpoint: str = Field(
        default="", description="OpenTelemetry collector; empty sends nothing", examples=["http://otel:4318"]
    )
    trace_ratio: float = Field(
        default=0.05, ge=0, le=1, description="share of new traces that are sampled", examples=["0.05"]
    )
    clock_epoch: AwareDatetime | None = Field(
        default=None, description="simulated time at AIFN_CLOCK_STARTED", examples=["2017-10-03T00:00:00Z"]
    )
    clock_started: AwareDatetime | None = Field(
        default=None, description="real moment at which simulated time began", examples=["2026-11-21T09:00:00Z"]
    )
    clock_factor: int = Field(
        default=1, ge=1, le=1_000_000, description="simulated seconds in a real one", examples=["3600"]
    )

    @model_validator(mode="after")
    def _clock_is_whole(self) -> Self:
        if (self.clock_epoch is None) != (self.clock_started is None):
            raise ValueError("AIFN_CLOCK_EPOCH and AIFN_CLOCK_STARTED are set together or not at all")
        return self

    @property
    def member(self) -> str:
        """Which of several agents of one service this is; each hears everything. Empty: there is one."""
        return ""

    def clock(self) -> SimulatedClock | None:
        """The simulated clock these settings describe, if any."""
        if self.clock_epoch is None or self.clock_started is None:
            return None
        return SimulatedClock(epoch=self.clock_epoch, started=self.clock_started, factor=self.clock_factor)


S = TypeVar("S", bound=ServiceSettings)


def read_settings(kind: type[S]) -> S:
    """Read settings from the environment. Raises WrongSetting with one line that says what to set."""
    try:
        return kind()
    except ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        if not first["loc"]:
            raise WrongSetting(first["msg"].removeprefix("Value error, ")) from None
        name = str(first["loc"][0])
        field = kind.model_fields.get(name)
        example = (
            f", for example AIFN_{name.upper()}={field.examples[0]}" if field is not None and field.examples else ""
        )
        problem = "is not set" if first["type"] == "missing" else f"is wrong: {first['msg']}"
        raise WrongSetting(f"AIFN_{name.upper()} {problem}{example}") from None
