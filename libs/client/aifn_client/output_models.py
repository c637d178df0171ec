"""What accounting shows in reports, months, forecasts, its register and of webhooks, for the terminal."""

from datetime import date, datetime

from aifn_client.models import View


class Sum(View):
    """What one thing has used of one resource."""

    key: str
    resource: str
    amount: int
    node_hours: str | None = None
    gpu_hours: str | None = None
    records: int
    jobs: int


class UsageReport(View):
    """Sums, and the total they belong to."""

    by: str
    since: date
    until: date
    total: tuple[Sum, ...]
    items: tuple[Sum, ...]
    next: str | None = None


class TracedCharge(View):
    """One charge of a job, and where it comes from."""

    local_job_id: str
    segment: int
    revision: int
    superseded: bool
    resource: str
    amount: int
    rate_card: str
    allocation_id: str
    project_id: str
    pool: str
    award_id: str | None = None
    mode: str | None = None
    transfers: tuple[int, ...] = ()


class Trace(View):
    """The way from a job to all the sums it is part of."""

    job_id: str
    charges: tuple[TracedCharge, ...]


class Balances(View):
    """The five balances at one moment."""

    granted: int
    available: int
    held: int
    charged: int
    overrun: int


class Movement(View):
    """What transfers of one kind did in a month."""

    kind: str
    balance: str
    change: int
    transfers: int


class MonthOfBooks(View):
    """A month of an allocation's books."""

    allocation_id: str
    resource: str
    unit: str
    month: str
    opening: Balances
    movements: tuple[Movement, ...]
    closing: Balances


class BurnDay(View):
    """One day of an allocation."""

    day: date
    used: int
    left: int


class AheadDay(View):
    """What may be left after a coming day."""

    day: date
    expected: int
    low: int
    high: int


class BudgetForecast(View):
    """A guess with its band."""

    method: str
    days_seen: int
    level: int
    ahead: tuple[AheadDay, ...]
    exhausted_on: date | None = None
    exhausted_earliest: date | None = None
    exhausted_latest: date | None = None


class Burn(View):
    """How an allocation burns down."""

    allocation_id: str
    resource: str
    unit: str
    granted: int
    charged: int
    held: int
    ends_at: datetime
    days: tuple[BurnDay, ...]
    forecast: BudgetForecast | None = None


class AwardedAmount(View):
    """What was given of one resource."""

    resource: str
    granted: int
    used: int
    granted_node_hours: str | None = None
    used_node_hours: str | None = None


class RegisteredAward(View):
    """An award, as anybody may know it."""

    award_id: str
    project_id: str
    title: str
    mode: str
    country: str
    actor: str
    amounts: tuple[AwardedAmount, ...]


class Actor(View):
    """What one kind of actor was given of one resource."""

    actor: str
    awards: int
    amount: AwardedAmount


class Webhook(View):
    """An address that is told of charges."""

    webhook_id: str
    owner: str
    project_id: str | None = None
    url: str
    state: str
    state_reason: str
    failures: int
    next_attempt_at: datetime


class NewWebhook(Webhook):
    """A webhook with its secret, which is shown once."""

    secret: str


class Delivery(View):
    """One call to a receiver."""

    number: int
    kind: str
    attempt: int
    records: int
    status: int | None = None
    outcome: str
    took_ms: int
    at: datetime
