"""What may be configured in the gate, besides what all services share."""

from aifn_common.settings import ServiceSettings
from pydantic import Field, SecretStr


class FedgateSettings(ServiceSettings):
    """`factory` is the member's id. An empty `kafka` is a member without a broker: all goes over HTTPS."""

    factory: str = Field(pattern=r"^[a-z0-9-]{2,20}$", description="the member's id", examples=["lumi-aif"])
    kafka: str = Field(
        pattern=r"^([^\s,:/]+:\d{1,5}(,[^\s,:/]+:\d{1,5})*)?$",
        description="bootstrap servers; empty is a member without a broker",
        examples=["kafka:9092"],
    )
    kafka_wait_seconds: float = Field(
        default=0.2,
        ge=0.01,
        le=10,
        description="how long a broker may keep a question for news open",
        examples=["0.5"],
    )
    fed_key: str = Field(description="file with the online keys", examples=["/run/secrets/online.key.json"])
    fed_directory: str = Field(
        description="folder with root.<n>.json and directory.json", examples=["/etc/aifn/federation"]
    )
    fed_relays: str = Field(
        default="",
        pattern=r"^([a-z0-9-]+(,[a-z0-9-]+)*)?$",
        description="aliases that mirrored topics begin with; empty is HTTPS only",
        examples=["relay-a,relay-b"],
    )
    fed_head_seconds: float = Field(
        default=30, gt=0, le=3600, description="how often a signed head is written", examples=["30"]
    )
    fed_silence_seconds: float = Field(
        default=90, gt=0, le=86_400, description="a peer without a head for so long is silent", examples=["90"]
    )
    fed_pull_seconds: float = Field(
        default=2, gt=0, le=3600, description="how often gaps are looked for and asked about", examples=["2"]
    )
    fed_usage_seconds: float = Field(
        default=10, gt=0, le=3600, description="how often sums of usage that changed are told", examples=["10"]
    )
    fed_keep_days: int = Field(
        default=400, ge=400, description="how long the own log is kept for backfill", examples=["400"]
    )
    fed_park_at_most: int = Field(
        default=10_000, ge=1, description="envelopes of one owner that may wait", examples=["10000"]
    )
    fed_quarantine_at_most: int = Field(
        default=1000, ge=1, description="bad messages of one owner kept in an hour; more are counted", examples=["1000"]
    )
    fed_registry_url: SecretStr | None = Field(
        default=None,
        description="the registry's database, for a member without Kafka",
        examples=["postgresql://fedgate:secret@db:5432/registry"],
    )

    @property
    def relays(self) -> tuple[str, ...]:
        """The aliases of the relays."""
        return tuple(filter(None, self.fed_relays.split(",")))
