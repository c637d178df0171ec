"""What accounting shows of rate cards, periods and gaps, as far as the terminal shows it."""

from datetime import datetime

from aifn_client.models import View


class RateCard(View):
    """How use of a resource is charged from a moment on."""

    id: str
    resource: str
    version: int
    title: str
    valid_from: datetime
    source: str
    confirmed: bool
    not_confirmed: tuple[str, ...] = ()


class Quote(View):
    """What a run would cost."""

    resource: str
    rate_card: str
    amount: int
    node_hours: str
    gpu_hours: str | None = None


class Period(View):
    """A month of the books."""

    month: str
    state: str
    records: int
    entries: int
    closed_at: datetime | None = None
    closed_by: str | None = None
    holds_carried: int | None = None
    gaps_accepted: int | None = None
    digest: str | None = None


class MonthTotal(View):
    """What belongs to a month of one allocation."""

    allocation_id: str
    resource: str
    amount: int
    records: int


class LinkedEntry(View):
    """What a record that came after the closing changed in a closed month."""

    entry: int
    recorded_in: str
    kind: str
    change: int
    allocation_id: str
    project_id: str
    job_id: str
    revision: int
    corrects_revision: int | None = None


class PeriodCheck(View):
    """One allocation's month known in two ways."""

    allocation_id: str
    resource: str
    frozen: int
    entered: int
    counted: int
    passed: bool


class Gap(View):
    """A site-day on which what arrived is not what the site states."""

    gap: int
    machine_id: str
    day: str
    state: str
    reason: str
    stated_records: int | None = None
    records: int
    opened_at: datetime
    closed_at: datetime | None = None
