"""Who may use what: calls, applications, the eligibility decision that cites every rule, and what an award gives."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from aifn_common.errors import Refusal
from aifn_events.access import AwardGranted
from aifn_events.federation import AUTHORITY, MemberKind

from aifn_scheduler.domain.machines import Partition
from aifn_scheduler.policy_data import AccessMode, Country, Policies

_STATEMENT_OF = {"civilian_use_only": "civilian_use"}
"""Conditions whose statement has another name; the rest are stated under their own."""
_GPU_HOUR_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Call:
    """An access mode that takes applications between two moments, under one policy version.

    `inference_cap_pct`: most of an award that inference may use; None is no limit. Its awards keep it: a switch is a
    new call.
    """

    call_id: str
    mode: str
    policy_version: str
    pool: Literal["union", "national"]
    deciding_authority: str
    technical_check: Literal["automatic", "manual"]
    opens_at: datetime
    closes_at: datetime | None
    partitions: tuple[str, ...] | None
    single_machine: bool
    source: str
    inference_cap_pct: int | None = None

    def is_decided_by(self, kind: MemberKind) -> bool:
        """Whether a member of this kind is the call's authority."""
        return self.deciding_authority == AUTHORITY.get(kind)


@dataclass(frozen=True, slots=True)
class Organisation:
    """Who applies, as they describe themselves. `turnover_eur` None is *not stated*."""

    name: str
    kind: str
    country: str
    staff: int
    turnover_eur: int | None


@dataclass(frozen=True, slots=True)
class Ask:
    """GPU-hours wanted on one partition; accounting GPUs, four to a LUMI-G node."""

    partition_id: str
    gpu_hours: int


@dataclass(frozen=True, slots=True)
class Application:
    """What somebody asks for under one call."""

    title: str
    organisation: Organisation
    asks: tuple[Ask, ...]
    months: int
    statements: Mapping[str, bool]

    @property
    def gpu_hours(self) -> int:
        """All asks together."""
        return sum(ask.gpu_hours for ask in self.asks)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule said. `source` is where the rule is written."""

    rule: str
    passed: bool
    because: str
    source: str


@dataclass(frozen=True, slots=True)
class Line:
    """An amount of one partition's time, in slice-seconds."""

    machine_id: str
    partition_id: str
    resource: str
    amount: int


class NotEligible(Refusal):
    """An application that was found not eligible cannot be awarded."""

    code = "not_eligible"

    def __init__(self, application_id: str) -> None:
        super().__init__(f"{application_id} was found not eligible; its findings say why")
        self.application_id = application_id


class AlreadyAwarded(Refusal):
    """An application is awarded once."""

    code = "already_awarded"

    def __init__(self, application_id: str, project_id: str) -> None:
        super().__init__(f"{application_id} was awarded before, to project {project_id}")
        self.application_id = application_id
        self.project_id = project_id


class AnothersDecision(Refusal):
    """A call of an authority that is not this member."""

    code = "anothers_decision"

    def __init__(self, call: "Call", kind: str) -> None:
        super().__init__(f"{call.call_id} is decided by {call.deciding_authority}, and this member is a {kind}")
        self.call_id = call.call_id


class NoHost(Refusal):
    """Each part of an award goes to the one AI Factory that operates the partition."""

    code = "no_host"


class ForeignAward(Refusal):
    """An award of another member that this factory does not carry out."""

    code = "foreign_award"


class NotCountable(Refusal):
    """GPU-hours of this partition cannot be said in whole slice-seconds."""

    code = "not_countable"

    def __init__(self, partition_id: str) -> None:
        super().__init__(f"{partition_id}: GPU-hours cannot be counted, its accounting GPUs per node are not known")
        self.partition_id = partition_id


def decide_eligibility(
    application: Application, call: Call, policies: Policies, partitions: Mapping[str, Partition], now: datetime
) -> tuple[Finding, ...]:
    """Look at every rule of the call's mode; all findings count, whichever fails first.

    Args:
        partitions: known partitions by id; one that is missing is unknown.
        now: the moment of submission.
    Returns: one finding per rule, and one per partition asked for. Eligible if all have passed.
    Source: the access mode's record in `seed/access_modes.json`, which cites the Access Policy.
    """
    mode = policies.mode(call.mode)
    known = [partitions[ask.partition_id] for ask in application.asks if ask.partition_id in partitions]
    return (
        _call_open(call, now),
        _applicant_kind(application.organisation, mode, policies),
        _sme_definition(application.organisation, policies),
        _country(application.organisation, call, policies, now),
        *_conditions(application, mode),
        _amount(application.gpu_hours, mode, policies),
        _duration(application.months, mode),
        _single_machine(known, call),
        *(_partition(ask, partitions.get(ask.partition_id), call, mode) for ask in application.asks),
    )


def eligible(findings: Iterable[Finding]) -> bool:
    """Whether every rule has passed."""
    return all(finding.passed for finding in findings)


def slice_seconds(partition: Partition, gpu_hours: int) -> int:
    """Say GPU-hours of a partition in slice-seconds, exactly.

    Raises: NotCountable, if the number of accounting GPUs is unknown or the amount is not whole.

    One LUMI-G GPU-hour is a quarter node-hour, a node has 64 slices:

    >>> from aifn_scheduler.domain.machines import LUMI_G
    >>> slice_seconds(LUMI_G, 5_000)
    288000000
    """
    if not partition.gpus_per_node:
        raise NotCountable(partition.partition_id)
    amount, rest = divmod(gpu_hours * _GPU_HOUR_SECONDS * partition.units_per_node, partition.gpus_per_node)
    if rest:
        raise NotCountable(partition.partition_id)
    return amount


def host_of(partition: Partition) -> str:
    """The one AI Factory that operates a partition. Raises NoHost.

    >>> from aifn_scheduler.domain.machines import LUMI_G
    >>> host_of(LUMI_G)
    'lumi-aif'
    """
    if len(partition.factory_ids) != 1:
        named = ", ".join(partition.factory_ids) or "no AI Factory"
        raise NoHost(f"{partition.partition_id} is operated by {named}, so that nobody alone can open its allocation")
    return partition.factory_ids[0]


def project_name(number: int, year: int, member: str, kind: MemberKind) -> str:
    """What the project of an award is called; an authority without machines says whose numbers these are.

    >>> project_name(117, 2026, "lumi-aif", "factory"), project_name(117, 2026, "ju", "ju")
    ('aif-2026-0117', 'aif-ju-2026-0117')
    """
    return f"aif-{year}-{number:04d}" if kind == "factory" else f"aif-{member}-{year}-{number:04d}"


def check_award(award: AwardGranted, me: str, policies: Policies, partitions: Mapping[str, Partition]) -> None:
    """Hold another authority's award against what this factory may carry out. Raises ForeignAward.

    Who sent it was checked by the gate: a member of the kind that the award names as its authority.
    """
    if award.factory_id != me:
        raise ForeignAward(f"award {award.award_id} is for {award.factory_id}")
    try:
        mode = policies.mode(award.mode)
    except KeyError:
        raise ForeignAward(f"award {award.award_id}: no mode {award.mode} is known here") from None
    if mode.deciding_authority != award.deciding_authority:
        raise ForeignAward(f"{award.mode} is decided by {mode.deciding_authority}, not by {award.deciding_authority}")
    for line in award.lines:
        partition = partitions.get(line.partition_id)
        if partition is None or (partition.machine_id, partition.resource) != (line.machine_id, line.resource):
            raise ForeignAward(f"{line.resource} is not what is known here of {line.partition_id}")
        if me not in partition.factory_ids:
            raise ForeignAward(f"{line.partition_id} is not operated by {me}")


def award_lines(asks: Sequence[Ask], partitions: Mapping[str, Partition]) -> tuple[Line, ...]:
    """What an award gives for these asks. Raises NotCountable; every partition must be known."""
    return tuple(
        Line(
            machine_id=partitions[ask.partition_id].machine_id,
            partition_id=ask.partition_id,
            resource=partitions[ask.partition_id].resource,
            amount=slice_seconds(partitions[ask.partition_id], ask.gpu_hours),
        )
        for ask in asks
    )


def after_months(start: datetime, months: int) -> datetime:
    """The same day and time of day some months later; the last day of a shorter month.

    >>> from datetime import UTC
    >>> after_months(datetime(2026, 11, 30, 9, tzinfo=UTC), 3).isoformat()
    '2027-02-28T09:00:00+00:00'
    """
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    for day in (start.day, 30, 29, 28):
        try:
            return start.replace(year=year, month=month + 1, day=min(day, start.day))
        except ValueError:
            continue
    raise AssertionError("every month has 28 days")


def nearest_offers(gpu_hours: int, mode: AccessMode, policies: Policies) -> str:
    """Say which current mode of the same track takes an amount, or the nearest below and above it.

    >>> from aifn_scheduler.policy_data import load_policies
    >>> nearest_offers(7_000, load_policies().mode("aif_playground"), load_policies())
    'no current mode takes 7000: nearest below is aif_playground (5000), nearest above aif_fast_lane (more than 10000, \
up to 50000)'
    """
    others = [
        other
        for other in policies.modes
        if other.status == "current" and other.track == mode.track and other.allocation_unit == "gpu_hours"
    ]
    taking = [other.mode_id for other in others if _takes(other, gpu_hours)]
    if taking:
        return f"{', '.join(taking)} takes {gpu_hours}"
    below = max((o for o in others if _most(o) < gpu_hours), key=_most, default=None)
    above = min((o for o in others if _least(o) > gpu_hours), key=_least, default=None)
    named = [
        f"nearest {where} {link}{other.mode_id} ({amounts_in_words(other)})"
        for where, link, other in (("below", "is ", below), ("above", "" if below else "is ", above))
        if other is not None
    ]
    return f"no current mode takes {gpu_hours}: {', '.join(named)}" if named else f"no current mode takes {gpu_hours}"


def amounts_in_words(mode: AccessMode) -> str:
    """How many GPU-hours a mode gives, e.g. "more than 10000, up to 50000"."""
    if mode.fixed_gpu_hours is not None:
        return str(mode.fixed_gpu_hours)
    words = []
    if mode.min_gpu_hours is not None:
        words.append(f"{'more than' if mode.min_gpu_hours_exclusive else 'at least'} {mode.min_gpu_hours}")
    if mode.max_gpu_hours is not None:
        words.append(f"up to {mode.max_gpu_hours}")
    return ", ".join(words) or "no amount is published"


def _cite(sources: Sequence[str]) -> str:
    return "; ".join(sources)


def _call_open(call: Call, now: datetime) -> Finding:
    closed = call.closes_at is not None and now >= call.closes_at
    if now < call.opens_at:
        because = f"the call opens at {call.opens_at:%Y-%m-%d %H:%M} UTC"
    elif closed:
        because = f"the call closed at {call.closes_at:%Y-%m-%d %H:%M} UTC"
    else:
        because = "the call takes applications at any time"
    return Finding("call_open", now >= call.opens_at and not closed, because, call.source)


def _applicant_kind(organisation: Organisation, mode: AccessMode, policies: Policies) -> Finding:
    def found(passed: bool, because: str) -> Finding:
        return Finding("applicant_kind", passed, because, _cite(mode.source))

    known = {kind.kind for kind in policies.applicant_kinds}
    if organisation.kind not in known:
        return found(False, f"{organisation.kind} is no known kind of applicant")
    chain = policies.kind_and_above(organisation.kind)
    lineage = " is ".join(chain)
    for kind in chain:
        if kind in mode.excluded:
            return found(False, f"{lineage}; {mode.name} excludes {kind}")
    for kind in chain:
        if kind in mode.applicant_categories:
            return found(True, f"{lineage}; {mode.name} is open to {kind}")
    return found(False, f"{lineage}; {mode.name} is open to {', '.join(mode.applicant_categories)} only")


def _sme_definition(organisation: Organisation, policies: Policies) -> Finding:
    definition = policies.eligibility.sme_definition

    def found(passed: bool, because: str) -> Finding:
        return Finding("sme_definition", passed, because, _cite(definition.source))

    known = {kind.kind for kind in policies.applicant_kinds}
    if organisation.kind not in known or "sme" not in policies.kind_and_above(organisation.kind):
        return found(True, f"applies to SMEs only; {organisation.kind} does not claim to be one")
    problems = []
    if organisation.staff >= definition.max_employees_exclusive:
        problems.append(f"{organisation.staff} staff, an SME has fewer than {definition.max_employees_exclusive}")
    if organisation.turnover_eur is None:
        problems.append("the turnover is not stated, so SME status is not shown")
    elif organisation.turnover_eur > definition.max_turnover_eur:
        problems.append(f"EUR {organisation.turnover_eur} turnover, an SME has at most {definition.max_turnover_eur}")
    if problems:
        return found(False, "; ".join(problems))
    return found(True, f"{organisation.staff} staff and EUR {organisation.turnover_eur} turnover: an SME")


def _country(organisation: Organisation, call: Call, policies: Policies, now: datetime) -> Finding:
    def found(passed: bool, because: str) -> Finding:
        return Finding("country", passed, because, _cite(policies.eligibility.source))

    if call.pool == "national":
        return found(True, "a national share has its host's own rule; the Union's country rule does not bind it")
    country = policies.country(organisation.country)
    if country is None:
        return found(False, f"{organisation.country} is in none of the lists of Member and associated states")
    passed, because = _membership(country, now)
    return found(passed, because if country.note is None else f"{because} ({country.note})")


def _membership(country: Country, now: datetime) -> tuple[bool, str]:
    if country.eu_member_state:
        return True, f"{country.name} is an EU Member State"
    begun = country.horizon_europe_from is None or country.horizon_europe_from <= now.date()
    if country.horizon_europe_associated and begun:
        return True, f"{country.name} is associated to Horizon Europe"
    if country.digital_europe_associated:
        return True, f"{country.name} is associated to Digital Europe"
    horizon = "not yet associated to Horizon Europe" if country.horizon_europe_associated else "not in Horizon Europe"
    digital = (
        "association to Digital Europe is not known here, so not yet"
        if country.digital_europe_associated is None
        else "not in Digital Europe"
    )
    return False, f"{country.name} is no Member State; {horizon}; {digital}"


def _conditions(application: Application, mode: AccessMode) -> list[Finding]:
    return [_condition(condition, application, mode) for condition in mode.eligibility_conditions]


def _condition(condition: str, application: Application, mode: AccessMode) -> Finding:
    if condition == "organisation_required":
        passed = bool(application.organisation.name.strip())
        because = "an organisation applies" if passed else "no organisation is named"
    else:
        statement = _STATEMENT_OF.get(condition, condition)
        passed = application.statements.get(statement, False)
        because = f"{statement} is {'' if passed else 'not '}stated"
    return Finding(condition, passed, because, _cite(mode.source))


def _least(mode: AccessMode) -> int:
    if mode.fixed_gpu_hours is not None:
        return mode.fixed_gpu_hours
    return (mode.min_gpu_hours or 0) + (1 if mode.min_gpu_hours_exclusive else 0)


def _most(mode: AccessMode) -> int:
    # No published upper bound means none here: such a mode is never "below" an amount.
    return next((most for most in (mode.fixed_gpu_hours, mode.max_gpu_hours) if most is not None), 2**63)


def _takes(mode: AccessMode, gpu_hours: int) -> bool:
    return _least(mode) <= gpu_hours <= _most(mode)


def _amount(gpu_hours: int, mode: AccessMode, policies: Policies) -> Finding:
    if _takes(mode, gpu_hours):
        return Finding("amount", True, f"{gpu_hours} GPU-hours: {amounts_in_words(mode)}", _cite(mode.source))
    because = f"{mode.name} gives {amounts_in_words(mode)} GPU-hours; {nearest_offers(gpu_hours, mode, policies)}"
    return Finding("amount", False, because, _cite(mode.source))


def _duration(months: int, mode: AccessMode) -> Finding:
    allowed = mode.allocation_duration_months
    if allowed is None:
        return Finding("duration", True, "no duration is published for this mode", _cite(mode.source))
    words = ", ".join(map(str, allowed))
    return Finding("duration", months in allowed, f"{months} months asked; {words} are offered", _cite(mode.source))


def _single_machine(asked: Sequence[Partition], call: Call) -> Finding:
    machines = sorted({partition.machine_id for partition in asked})
    if not call.single_machine:
        return Finding("single_machine", True, "the call allows several machines", call.source)
    because = f"on {', '.join(machines) or 'no known machine'}; the call gives one machine"
    return Finding("single_machine", len(machines) <= 1, because, call.source)


def _partition(ask: Ask, partition: Partition | None, call: Call, mode: AccessMode) -> Finding:
    source = call.source
    if partition is None:
        return Finding("partition", False, f"no partition {ask.partition_id} is known", source)
    checks: tuple[tuple[Callable[[], bool], str], ...] = (
        (lambda: partition.operating, f"is not operating ({partition.stage})"),
        (
            lambda: call.partitions is None or partition.partition_id in call.partitions,
            "is not offered in this call",
        ),
        (
            lambda: mode.eligible_machine_ids is None or partition.machine_id in mode.eligible_machine_ids,
            f"belongs to {partition.machine_id}, which this mode does not offer",
        ),
        (lambda: _countable(partition, ask.gpu_hours), "cannot be counted in GPU-hours"),
    )
    for holds, otherwise in checks:
        if not holds():
            return Finding("partition", False, f"{partition.partition_id} {otherwise}", source)
    return Finding("partition", True, f"{partition.partition_id} of {partition.machine_id} is operating", source)


def _countable(partition: Partition, gpu_hours: int) -> bool:
    try:
        slice_seconds(partition, gpu_hours)
    except NotCountable:
        return False
    return True
