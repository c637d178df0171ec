"""The published rules of access as data: modes, policy versions, share ceilings, kinds of applicants, countries.

Nothing is decided here. Amounts and clocks change with each Access Policy version, so they are read from the folder
`seed`, each with its source; `None` means that no source gives the value.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Confidence = Literal["high", "medium", "low"]
CountryCode = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
ModeId = Annotated[str, Field(pattern=r"^[a-z]+(_[a-z]+)*$")]
ApplicantKind = Annotated[str, Field(pattern=r"^[a-z]+(_[a-z]+)*$")]
PolicyVersionId = Annotated[str, Field(pattern=r"^20\d{2}-(0[1-9]|1[0-2])$")]
Sources = Annotated[tuple[str, ...], Field(min_length=1)]
Amount = Annotated[int, Field(ge=1)]
Percent = Annotated[int, Field(ge=0, le=100)]
TargetUnit = Literal["calendar_days", "working_days", "months"]
TargetStart = Literal["cutoff", "submission"]


class Record(BaseModel):
    """A value of the policy data: immutable, and an unknown field is an error, so that no rule is lost unseen."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PolicyVersion(Record):
    """One Access Policy; in force from the first day of its month until the next one begins."""

    version: PolicyVersionId
    name: str
    in_force_from: PolicyVersionId
    source: Sources


class Kind(Record):
    """A kind of applicant and the kind above it."""

    kind: ApplicantKind
    is_a: ApplicantKind | None
    note: str | None
    source: Sources | None


class ShareCap(Record):
    """A ceiling for a group of modes. `carried_over`: an older version's value, to be confirmed before it binds."""

    policy: PolicyVersionId
    group: str
    cap_pct: Percent
    base: str
    carried_over: bool
    source: Sources
    confidence: Confidence
    note: str | None


class UnionShareRule(Record):
    """The Union's part of a class of machines, in percent of the year."""

    machine_class: str
    union_share_pct: Percent | None
    note: str | None
    source: Sources


class LifecycleRule(Record):
    """A rule about running awards, in words; hosts have their own."""

    rule_id: str
    rule: str
    source: Sources
    confidence: Confidence


class PartitionAmount(Record):
    """What one call or award gave on one partition; a published example, not always a menu."""

    partition_id: str | None
    machine_id: str
    node_hours: Amount | None = None
    gpu_hours: Amount | None = None
    basis: str
    source: Sources


class AccessMode(Record):
    """One way to get time on the machines, with the fields of its published call."""

    mode_id: ModeId
    name: str
    family: str
    track: str | None
    status: Literal["current", "historical", "proposed", "seen_in_portal_docs"]
    policy_version: PolicyVersionId | None
    policy_version_basis: str | None
    purpose: str | None
    applicant_categories: Annotated[tuple[ApplicantKind, ...], Field(min_length=1)]
    eligibility_conditions: tuple[str, ...]
    excluded: tuple[ApplicantKind, ...]
    free_of_charge_for: str | None
    selection_kind: str | None
    selection_body: str | None
    ordering: (
        Literal[
            "first_come_first_served",
            "first_come_first_served_within_cutoff",
            "first_arrived_first_served_among_passing",
            "ranked_by_panel",
            "by_decision",
        ]
        | None
    )
    review_criteria: tuple[str, ...]
    cutoff_pattern: str | None
    cutoffs_per_year: Amount | None
    cutoff_local_time: str | None
    known_cutoff_dates: tuple[str, ...]
    cutoff_day_of_month: Annotated[int, Field(ge=1, le=31)] | None
    decision_target_value: Amount | None
    decision_target_unit: TargetUnit | None
    decision_target_from: TargetStart | None
    access_target_value: Amount | None
    access_target_unit: TargetUnit | None
    access_target_from: TargetStart | None
    allocation_duration_months: tuple[Amount, ...] | None
    allocation_unit: Literal["node_hours", "gpu_hours"] | None
    amount_kind: (
        Literal["fixed_per_partition", "fixed_per_machine", "range", "by_decision", "prize", "regranted_from_envelope"]
        | None
    )
    min_node_hours: Amount | None
    max_node_hours: Amount | None
    min_gpu_hours: Amount | None
    min_gpu_hours_exclusive: bool | None
    max_gpu_hours: Amount | None
    fixed_gpu_hours: Amount | None
    amounts_by_partition: tuple[PartitionAmount, ...]
    single_machine_only: bool | None
    share_cap_pct: Percent | None
    share_cap_base: str | None
    share_cap_group: str | None
    inference_cap_pct: Percent | None
    renewals_max: Annotated[int, Field(ge=0)] | None
    extension_months: Amount | None
    extension_amount_pct: Percent | None
    onboarding_support: str | None
    support_level: Literal["onboarding", "expert", "onboarding_and_expert"] | None
    obligations: tuple[str, ...]
    eligible_machine_ids: tuple[str, ...] | None
    deciding_authority: Literal["ju", "hosting_factory", "fund_holder"]
    deciding_authority_basis: str
    pool: Literal["union", "national"]
    field_basis: dict[str, str]
    source: Sources
    confidence: Confidence
    notes: str | None


class ParticipatingStates(Record):
    """The participating states of the JU beside the Member States."""

    eu_member_states: Amount
    other_country_codes: tuple[CountryCode, ...]
    source: Sources


class SmeDefinition(Record):
    """Fewer employees than the first, and at most the second."""

    max_employees_exclusive: Amount
    max_turnover_eur: Amount
    source: Sources


class EuProgrammes(Record):
    """Programmes through which industry enters AI for Science; the list is open."""

    examples: tuple[str, ...]
    closed_list: bool
    rule: str
    source: Sources


class Eligibility(Record):
    """Who may use the Union's share, in the words of the sources."""

    rule: str
    participating_states_sept_2024: ParticipatingStates
    sme_definition: SmeDefinition
    registration_attributes: tuple[str, ...]
    source: Sources
    scope: str
    countries: str
    eu_programmes: EuProgrammes


class Country(Record):
    """Membership in three different lists. `None` is *not known here*: treat as "not yet", never as "no"."""

    country_code: CountryCode
    name: str
    aliases: tuple[CountryCode, ...]
    eu_member_state: bool
    ju_participating_state_2024_09: bool
    horizon_europe_associated: bool
    horizon_europe_from: date | None
    digital_europe_associated: bool | None
    note: str | None


class _Countries(Record):
    schema_version: Literal[1]
    as_of: str
    as_of_note: str
    rule: str
    source: Sources
    countries: tuple[Country, ...]


class Policies(Record):
    """All rules of access, checked: identifiers are unique and every reference leads somewhere."""

    schema_version: Literal[1]
    as_of: str
    policy_versions: tuple[PolicyVersion, ...]
    policy_version_rule: str
    eligibility: Eligibility
    applicant_kind_rule: str
    applicant_kinds: tuple[Kind, ...]
    share_caps: tuple[ShareCap, ...]
    union_share_rules: tuple[UnionShareRule, ...]
    lifecycle_rules: tuple[LifecycleRule, ...]
    modes: tuple[AccessMode, ...]
    countries: tuple[Country, ...]

    def mode(self, mode_id: ModeId) -> AccessMode:
        """One access mode. Raises KeyError if there is none of that name."""
        for mode in self.modes:
            if mode.mode_id == mode_id:
                return mode
        raise KeyError(mode_id)

    def kind_and_above(self, kind: ApplicantKind) -> tuple[ApplicantKind, ...]:
        """A kind of applicant, then every kind above it. Raises KeyError if the kind is unknown.

        >>> load_policies().kind_and_above("startup")
        ('startup', 'sme', 'industry')
        """
        above = {each.kind: each.is_a for each in self.applicant_kinds}
        chain = [kind]
        while (next_kind := above[chain[-1]]) is not None:
            chain.append(next_kind)
        return tuple(chain)

    def version_in_force(self, day: date) -> PolicyVersion | None:
        """The policy version in force on a day; None before the first."""
        begun = [version for version in self.policy_versions if version.in_force_from <= f"{day:%Y-%m}"]
        return max(begun, key=lambda version: version.in_force_from, default=None)

    def caps_of(self, version: PolicyVersionId) -> tuple[ShareCap, ...]:
        """The ceilings listed for exactly this version; none are taken over from another one."""
        return tuple(cap for cap in self.share_caps if cap.policy == version)

    def country(self, code: str) -> Country | None:
        """A country by its code or an alias (EL, UK); None if no list knows it."""
        for country in self.countries:
            if code == country.country_code or code in country.aliases:
                return country
        return None

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        problems = [*_twice(self), *_dangling(self), *_circles(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _twice(policies: Policies) -> list[str]:
    """Identifiers used more than once."""
    identifiers = {
        "mode": [mode.mode_id for mode in policies.modes],
        "kind": [kind.kind for kind in policies.applicant_kinds],
        "policy version": [version.version for version in policies.policy_versions],
        "share cap": [f"{cap.group} of {cap.policy}" for cap in policies.share_caps],
        "country": [code for c in policies.countries for code in (c.country_code, *c.aliases)],
    }
    return [
        f"{what} {name} is there {times} times"
        for what, names in identifiers.items()
        for name, times in Counter(names).items()
        if times > 1
    ]


def _dangling(policies: Policies) -> list[str]:
    """References to a kind or a policy version that is not in the data."""
    kinds = {kind.kind for kind in policies.applicant_kinds}
    versions = {version.version for version in policies.policy_versions}
    unknown_kinds = [(k.kind, k.is_a) for k in policies.applicant_kinds if k.is_a is not None and k.is_a not in kinds]
    unknown_policies = [(cap.group, cap.policy) for cap in policies.share_caps if cap.policy not in versions]
    problems = [f"kind {name} names unknown kind {above}" for name, above in unknown_kinds]
    problems += [f"share cap {group} names unknown policy {policy}" for group, policy in unknown_policies]
    for mode in policies.modes:
        named = {*mode.applicant_categories, *mode.excluded}
        problems += [f"mode {mode.mode_id} names unknown kind {name}" for name in sorted(named - kinds)]
        if mode.policy_version is not None and mode.policy_version not in versions:
            problems.append(f"mode {mode.mode_id} names unknown policy {mode.policy_version}")
    return problems


def _circles(policies: Policies) -> list[str]:
    """Kinds of applicants that stand above themselves."""
    above = {kind.kind: kind.is_a for kind in policies.applicant_kinds}
    problems = []
    for start in above:
        seen: set[str] = set()
        at: str | None = start
        while at is not None and at not in seen:
            seen.add(at)
            at = above.get(at)
        if at == start:
            problems.append(f"kind {start} stands above itself")
    return problems


@cache
def load_policies() -> Policies:
    """Read and check the rules that come with the package. Raises pydantic.ValidationError if they do not hold."""
    countries = _Countries.model_validate_json(_text("countries.json")).countries
    return Policies.model_validate({**json.loads(_text("access_modes.json")), "countries": countries})


def _text(name: str) -> str:
    return files("aifn_scheduler").joinpath("seed", name).read_text(encoding="utf-8")
