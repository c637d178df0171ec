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
