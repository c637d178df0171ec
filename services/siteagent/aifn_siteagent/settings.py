"""What may be configured for a site agent."""

from typing import Annotated, Literal

from aifn_common.settings import ServiceSettings
from pydantic import Field

Nodes = Annotated[int, Field(ge=0, le=1_000_000)]


class SiteAgentSettings(ServiceSettings):
    """One agent speaks for one machine. Seconds of reports are simulated ones wherever time is simulated."""

    machine: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="the machine this agent speaks for", examples=["lumi"]
    )

    @property
    def member(self) -> str:
        """Every agent hears all jobs and takes its own machine's."""
        return self.machine

    backend: Literal["simulated"] = Field(
        default="simulated", description="which batch system it speaks to", examples=["simulated"]
    )
    simulated_nodes: dict[str, Nodes] = Field(
        default={},
        description="nodes in service by partition, as JSON; a partition not named has as many as its passport says",
        examples=['{"lumi-g": 48, "lumi-c": 32}'],
    )
    simulated_requeue_per_mille: int = Field(
        default=0, ge=0, le=1000, description="jobs in a thousand that lose a node and run again", examples=["20"]
    )
    simulated_seed: str = Field(
        default="", max_length=64, description="which jobs those are; the same seed, the same jobs", examples=["1"]
    )
    tick_seconds: float = Field(
        default=0.25,
        gt=0,
        le=3600,
        description="how often the batch system is looked at, in real time",
        examples=["0.25"],
    )
    capacity_report_seconds: int = Field(
        default=300, ge=1, le=86_400, description="time between two capacity reports", examples=["300"]
    )
