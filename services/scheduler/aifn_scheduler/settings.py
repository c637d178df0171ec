"""What may be configured of the scheduler, read once, in app.py."""

from datetime import timedelta

from aifn_common.settings import ServiceSettings
from aifn_events.federation import MemberKind
from pydantic import Field


class SchedulerSettings(ServiceSettings):
    """How far the scheduler plans. Patience is real time: a simulated clock is allowed for."""

    member_kind: MemberKind = Field(
        default="factory",
        description="what kind of member of the network this is: which calls are its to decide",
        examples=["factory"],
    )
    plan_at_most: int = Field(
        default=3000, ge=1, le=100_000, description="requests looked at in one plan", examples=["3000"]
    )
    explain_at_most: int = Field(
        default=300, ge=1, le=100_000, description="changed estimates written in one plan", examples=["300"]
    )
    capacity_patience_seconds: int = Field(
        default=900, ge=1, description="a report that is older tells nothing about a partition", examples=["900"]
    )
    capacity_ahead_seconds: int = Field(
        default=60, ge=0, le=3_600, description="how far a reporter's clock may be ahead of ours", examples=["60"]
    )
    estimate_tolerance_seconds: int = Field(
        default=30, ge=0, description="an estimate that moves less is not written again", examples=["30"]
    )
    longest_walltime_seconds: int = Field(
        default=48 * 3600, ge=60, le=366 * 86_400, description="longest a job may ask for", examples=["172800"]
    )

    handover_after_seconds: int = Field(
        default=900, ge=0, description="a job that would wait longer may go to another factory", examples=["900"]
    )
    handover_answer_seconds: int = Field(
        default=600,
        ge=1,
        description="another factory that has not answered by then is not waited for",
        examples=["600"],
    )

    @property
    def handover_after(self) -> timedelta:
        """How long a job may wait here, in the time of the process's clock."""
        return timedelta(seconds=self.handover_after_seconds * self.clock_factor)

    @property
    def handover_answer(self) -> timedelta:
        """How long an answer is waited for, in the time of the process's clock."""
        return timedelta(seconds=self.handover_answer_seconds * self.clock_factor)

    @property
    def capacity_patience(self) -> timedelta:
        """How old a capacity report may be, in the time of the process's clock."""
        return timedelta(seconds=self.capacity_patience_seconds * self.clock_factor)

    @property
    def capacity_ahead(self) -> timedelta:
        """How far in the future an observation may lie, in the time of the process's clock."""
        return timedelta(seconds=self.capacity_ahead_seconds * self.clock_factor)

    @property
    def estimate_tolerance(self) -> timedelta:
        """How far an estimate may move unsaid, in the time of the process's clock."""
        return timedelta(seconds=self.estimate_tolerance_seconds * self.clock_factor)
