"""Usage for others to see: sums by project, resource and hour. Who ran what stays here."""

from dataclasses import dataclass
from datetime import datetime

from aifn_events.federation import UsageHourSummed
from aifn_events.usage import UsageCharged


@dataclass(frozen=True, slots=True)
class HourKey:
    """One sum."""

    project_id: str
    resource: str
    hour: datetime

    @property
    def record_key(self) -> str:
        """The part of a record's key after the origin.

        >>> from datetime import UTC
        >>> HourKey("p1", "lumi/lumi-g/gpu-time", datetime(2026, 11, 21, 9, tzinfo=UTC)).record_key
        'p1/lumi/lumi-g/gpu-time/2026-11-21T09Z'
        """
        return f"{self.project_id}/{self.resource}/{self.hour:%Y-%m-%dT%HZ}"


def hour_of(charge: UsageCharged) -> HourKey:
    """Where a charge counts: the hour in which its segment ended."""
    return HourKey(charge.project_id, charge.resource, charge.ended_at.replace(minute=0, second=0, microsecond=0))


def identity_of(charge: UsageCharged) -> tuple[str, str, datetime, int, str]:
    """What a correction of a charge repeats."""
    return charge.machine_id, charge.local_job_id, charge.submitted_at, charge.segment, charge.resource


def summed(key: HourKey, *, amount: int, records: int, revision: int, member: str, now: datetime) -> UsageHourSummed:
    """A sum as a fact."""
    return UsageHourSummed(
        project_id=key.project_id,
        resource=key.resource,
        hour=key.hour,
        amount=amount,
        records=records,
        revision=revision,
        source=f"urn:aifn:{member}:fedgate",
        time=now,
    )
