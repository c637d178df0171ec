"""What accounting shows of pools and caps, as far as the terminal shows it; see `models`."""

from datetime import datetime

from aifn_client.models import View


class Pool(View):
    """A share of one resource for some time; whole numbers are in the resource's own unit."""

    pool_id: str
    kind: str
    title: str
    parent: str | None = None
    funder: str
    resource: str
    starts_at: datetime
    ends_at: datetime
    funded: int
    passed_on: int
    available: int
    reserved: int
    earmark: str | None = None
    use_or_lose: str | None = None


class Cap(View):
    """A ceiling for a group of access modes, and what is left below it."""

    cap_id: str
    policy_version: str
    mode_group: str
    modes: tuple[str, ...]
    pool_kind: str
    resource: str
    starts_at: datetime
    ends_at: datetime
    pct: int
    base: str
    base_amount: int
    ceiling: int
    used: int
    headroom: int
    yields: bool
    source: str


class Headroom(View):
    """What may be granted now, at most, and what bounds it."""

    resource: str
    kind: str
    headroom: int | None = None
    pool: Pool | None = None
    caps: tuple[Cap, ...] = ()


class Approval(View):
    """Something large that one person asked for, and another decides on."""

    approval_id: str
    what: str
    state: str
    project_id: str | None = None
    pool_id: str | None = None
    allocation_id: str | None = None
    amount: int
    asked_by: str
    asked_at: datetime
    decided_by: str | None = None
    reason: str | None = None


class Correction(View):
    """What a person corrected by hand, and the line of the statement that it is linked to."""

    correction_id: str
    allocation_id: str
    project_id: str
    resource: str
    amount: int
    transfer_id: int
    corrects_transfer: int
    corrects: str | None = None
    job_id: str | None = None
    reason: str
    corrected_by: str
    approved_by: str | None = None
    corrected_at: datetime


class Clearing(View):
    """What stands between two factories in one resource."""

    account: str
    resource: str
    balance: int


class ClearingLine(View):
    """One resource in one month between two factories."""

    resource: str
    opening: int
    gave: int
    took: int
    jobs: int
    closing: int
    settled: int
    left: int


class ClearingMonth(View):
    """A month between two factories."""

    month: str
    factory_id: str
    other: str
    settled: bool
    lines: tuple[ClearingLine, ...] = ()
