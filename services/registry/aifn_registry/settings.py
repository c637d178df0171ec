"""What may be configured in the registry, besides what all services share."""

from datetime import timedelta

from aifn_common.settings import ServiceSettings
from pydantic import Field


class RegistrySettings(ServiceSettings):
    """Both times are real ones: with a simulated clock they are stretched by its factor."""

    capacity_fresh_seconds: int = Field(
        default=300, ge=1, le=86_400, description="how long a capacity report counts as fresh", examples=["300"]
    )
    capacity_ahead_seconds: int = Field(
        default=60, ge=0, le=3_600, description="how far a reporter's clock may be ahead of ours", examples=["60"]
    )

    kafka_wait_seconds: float = Field(
        default=0.1, ge=0.01, le=10, description="how long a broker may keep a question for news open", examples=["0.5"]
    )

    @property
    def capacity_fresh(self) -> timedelta:
        """How old an observation may be to count as fresh, by the clock of this process."""
        return timedelta(seconds=self.capacity_fresh_seconds * self._factor)

    @property
    def capacity_ahead(self) -> timedelta:
        """How far in the future an observation may lie, by the clock of this process."""
        return timedelta(seconds=self.capacity_ahead_seconds * self._factor)

    @property
    def _factor(self) -> int:
        simulated = self.clock()
        return simulated.factor if simulated else 1
