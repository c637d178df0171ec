"""What every service may be told: read once from the environment, in app.py, and passed down."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, AwareDatetime, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from aifn_common.clock import SimulatedClock

MOST_SECRET_BYTES = 65_536


class WrongSetting(Exception):
    """A setting is missing or makes no sense; the message names the variable and shows an example."""


class Environment(EnvSettingsSource):
    """The environment. A secret may also lie in a file that `AIFN_<NAME>_FILE` names.

    The line feed that editors and `echo` leave at the end of a value is not part of it.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value of a setting, None if it is not there. Raises WrongSetting."""
        value, key, is_complex = super().get_field_value(field, field_name)
        if is_secret(field):
            value = _secret(f"AIFN_{field_name.upper()}", value, self.env_vars.get(f"aifn_{field_name}_file"))
        return value.rstrip("\r\n") if isinstance(value, str) else value, key, is_complex


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting may come from a file and is never shown."""
    return field.annotation is SecretStr


def _secret(name: str, value: str | None, path: str | None) -> str | None:
    if not path:
        return value
    if value is not None:
        raise WrongSetting(f"{name} and {name}_FILE are both set: say it in one place")
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(MOST_SECRET_BYTES + 1)
    except (OSError, ValueError) as wrong:
        why = wrong.strerror if isinstance(wrong, OSError) else "it is not UTF-8 text"
        raise WrongSetting(f"{name}_FILE is wrong: {path} cannot be read: {why}") from None
    if not text.strip() or len(text) > MOST_SECRET_BYTES:
        what = "is empty" if not text.strip() else f"is larger than {MOST_SECRET_BYTES} bytes"
        raise WrongSetting(f"{name}_FILE is wrong: {path} {what}")
    return text


def _readable(path: str) -> str:
    if path:
        try:
            with Path(path).open("rb"):
                pass
        except OSError as wrong:
            raise ValueError(f"{path} cannot be read: {wrong.strerror}") from None
    return path


FilePath = Annotated[str, AfterValidator(_readable)]
"""A file that is there at the start and may be replaced later: it is read again at every new connection."""


class Logged(NamedTuple):
    """What an event log keeps of requests: settings that decide what comes of them, and which paths it leaves out."""

    deciding: frozenset[str]
    aside: tuple[str, ...]


class ServiceSettings(BaseSettings):
    """Settings all services share. Each is an environment variable `AIFN_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="AIFN_", extra="ignore", frozen=True)
    logged: ClassVar[Logged | None] = None
    """None: this service keeps no event log."""

    factory: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="whose instance this is", examples=["lumi-aif"]
    )
    database_url: SecretStr = Field(
        description="this service's own database", examples=["postgresql://accounting:secret@db:5432/accounting"]
    )
    kafka: str = Field(
        pattern=r"^[^\s,:/]+:\d{1,5}(,[^\s,:/]+:\d{1,5})*$",
        description="bootstrap servers, host:port, with commas between",
        examples=["kafka:9092"],
    )
    kafka_ca_file: FilePath = Field(
        default="",
        description="certificates that may have signed the brokers'; set, the connection is TLS",
        examples=["/run/secrets/kafka/ca.crt"],
    )
    kafka_cert_file: FilePath = Field(
        default="", description="this service's own certificate, for TLS", examples=["/run/secrets/kafka/user.crt"]
    )
    kafka_key_file: FilePath = Field(
        default="", description="the private key of that certificate", examples=["/run/secrets/kafka/user.key"]
    )
    kafka_session_seconds: float = Field(
        default=6, ge=1, le=300, description="a consumer that is silent for so long is taken for dead", examples=["6"]
    )
    kafka_heartbeat_seconds: float = Field(
        default=2, ge=0.1, le=100, description="how often a consumer says that it lives", examples=["2"]
    )
    kafka_wait_seconds: float = Field(
        default=0.5, ge=0.01, le=10, description="how long a broker may keep a question for news open", examples=["0.5"]
    )
    topic_replicas: int = Field(
        default=1,
        ge=0,
        le=9,
        description="replicas of the topics that `migrate` makes where they are missing; 0: somebody else makes them",
        examples=["3"],
    )
    topic_partitions: int = Field(
        default=12,
        ge=1,
        le=100,
        description="most partitions of those topics; with one worker of each service 1 is enough, and a broker that"
        " was killed is back sooner",
        examples=["1"],
    )
    oidc_issuer: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="who signs bearer tokens",
        examples=["https://login.example.eu/realms/aif"],
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
        default=45, gt=0, le=3600, description="how long running work may take to end", examples=["45"]
    )
    stop_seconds: float = Field(
        default=50,
        gt=0,
        le=3600,
        description="how long all of stopping may take; a pod's own grace period is longer (60)",
        examples=["50"],
    )
    max_body_bytes: int = Field(default=1_048_576, ge=1024, description="largest request body", examples=["1048576"])
    log_level: str = Field(
        default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="least severity logged", examples=["INFO"]
    )
    otlp_endpoint: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="OpenTelemetry collector; empty sends nothing",
        examples=["http://otel:4318"],
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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - ours takes its place
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - there is none
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a variable names each file
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where values come from: what a test says, then the environment."""
        return init_settings, Environment(settings_cls)

    @field_validator("database_url")
    @classmethod
    def _url_of_postgres(cls, url: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(url.get_secret_value())
            port_is_fine = parts.port is None or parts.port > 0
        except ValueError:
            port_is_fine = False
        # Words of our own: the address has a password in it.
        if not port_is_fine or parts.scheme not in ("postgresql", "postgres"):
            raise ValueError("it is no address of a PostgreSQL database")
        return url

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if (self.clock_epoch is None) != (self.clock_started is None):
            raise ValueError("AIFN_CLOCK_EPOCH and AIFN_CLOCK_STARTED are set together or not at all")
        if bool(self.kafka_cert_file) != bool(self.kafka_key_file):
            raise ValueError("AIFN_KAFKA_CERT_FILE and AIFN_KAFKA_KEY_FILE are set together or not at all")
        if self.kafka_cert_file and not self.kafka_ca_file:
            raise ValueError("AIFN_KAFKA_CA_FILE is not set, and AIFN_KAFKA_CERT_FILE is of no use without it")
        if self.kafka_session_seconds < 3 * self.kafka_heartbeat_seconds:
            raise ValueError(
                "AIFN_KAFKA_SESSION_SECONDS is wrong: it must be three AIFN_KAFKA_HEARTBEAT_SECONDS or more"
            )
        if self.graceful_seconds > self.stop_seconds:
            raise ValueError("AIFN_GRACEFUL_SECONDS is wrong: it must not be more than AIFN_STOP_SECONDS")
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
    except SettingsError as wrong:
        if isinstance(wrong.__cause__, WrongSetting):
            raise wrong.__cause__ from None
        # What is no JSON where JSON is wanted; the message ends with the field's name in quotes.
        name = str(wrong).split('"')[1] if '"' in str(wrong) else ""
        raise WrongSetting(f"AIFN_{name.upper()} is wrong: it is no JSON{_example(kind, name)}") from None
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_input=False)[0]
        said = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise WrongSetting(said) from None
        name = str(first["loc"][0])
        variable = f"AIFN_{name.upper()}"
        if first["type"] == "missing":
            or_file = f", or {variable}_FILE to a file that holds it" if is_secret(kind.model_fields[name]) else ""
            raise WrongSetting(f"{variable} is not set{_example(kind, name)}{or_file}") from None
        raise WrongSetting(f"{variable} is wrong: {' '.join(said.split())}{_example(kind, name)}") from None


def _example(kind: type[ServiceSettings], name: str) -> str:
    field = kind.model_fields.get(name)
    return f", for example AIFN_{name.upper()}={field.examples[0]}" if field is not None and field.examples else ""
