"""Datasets, and the rules that say who may use them: pure decisions, each with the reasons it was made for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from aifn_common.errors import Invalid, NotFound, Refusal
from aifn_events.vocabulary import AllocationId, DatasetId, FactoryId, MachineId, ProjectId, Subject

Sensitivity = Literal["open", "internal", "personal", "confidential"]
Grade = Literal["open", "data_space", "industrial"]
LegalBasis = Literal[
    "consent", "contract", "legal_obligation", "vital_interests", "public_task", "legitimate_interests"
]
"""The six of Article 6(1) of the GDPR, (a) to (f)."""
Outcome = Literal["passed", "failed", "ask_steward", "unknown"]
State = Literal["pending", "granted", "refused"]
Waits = Literal["steward", "allocation"]

SCHEMES = frozenset({"s3", "swift", "https", "urn", "doi"})
_HOSTED = frozenset({"s3", "swift", "https"})
_SECRETS = frozenset(
    {
        "access_key",
        "access_key_id",
        "access_token",
        "accesskey",
        "accesskeyid",
        "api_key",
        "apikey",
        "auth",
        "authorization",
        "awsaccesskeyid",
        "credential",
        "key",
        "passwd",
        "password",
        "pwd",
        "sas",
        "secret",
        "secret_access_key",
        "secret_key",
        "secretkey",
        "session_token",
        "sig",
        "signature",
        "temp_url_sig",
        "token",
        "x-amz-credential",
        "x-amz-security-token",
        "x-amz-signature",
        "x-goog-credential",
        "x-goog-signature",
    }
)
"""Names of query parameters that carry a credential or a signature, in small letters."""

GDPR = "Regulation (EU) 2016/679"
TERMS = "terms of the dataset"
DATA_LABS = "EuroHPC JU, AI Factories: Data Labs"


class DatasetExists(Refusal):
    """A dataset of this name is described already."""

    code = "dataset_exists"

    def __init__(self, dataset_id: DatasetId) -> None:
        super().__init__(f"dataset {dataset_id} is described already")
        self.dataset_id = dataset_id


class DatasetUnknown(NotFound):
    """No dataset of this name is described here."""

    def __init__(self, dataset_id: DatasetId) -> None:
        super().__init__(f"no dataset {dataset_id}")
        self.dataset_id = dataset_id


class DatasetRetired(Refusal):
    """A retired dataset is kept for its history and changes no more."""

    code = "dataset_retired"

    def __init__(self, dataset_id: DatasetId) -> None:
        super().__init__(f"dataset {dataset_id} is retired")
        self.dataset_id = dataset_id


class LocationRefused(Invalid):
    """A location must be a plain reference: a known scheme, and nothing that opens the door."""

    code = "location_refused"


class DescriptionIncomplete(Invalid):
    """A dataset of this sensitivity or grade must say more, or something else."""

    code = "description_incomplete"


class ProjectUnknown(NotFound):
    """No such project has been heard of."""

    def __init__(self, project_id: ProjectId) -> None:
        super().__init__(f"no project {project_id}")
        self.project_id = project_id


class RequestUnknown(NotFound):
    """No such access request."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"no access request {request_id}")
        self.request_id = request_id


class RequestOpen(Refusal):
    """The project has asked for this dataset already, and nobody has answered yet."""

    code = "request_open"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"access request {request_id} for the same dataset is still open")
        self.request_id = request_id


class AlreadyGranted(Refusal):
    """The project may use this dataset already, for as long as a new grant would last."""

    code = "already_granted"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"access request {request_id} for the same dataset was granted and is in force")
        self.request_id = request_id


class AlreadyDecided(Refusal):
    """A decision is made once."""

    code = "already_decided"

    def __init__(self, request_id: str, state: State) -> None:
        super().__init__(f"access request {request_id} is {state} already")
        self.request_id = request_id
        self.state = state


class GrantForbidden(Refusal):
    """A rule stands against this grant, and a steward cannot lift it."""

    code = "grant_forbidden"

    def __init__(self, request_id: str, findings: Iterable["Finding"]) -> None:
        against = [finding for finding in findings if finding.outcome in ("failed", "unknown")]
        super().__init__(f"access request {request_id}: " + "; ".join(finding.because for finding in against))
        self.request_id = request_id
        self.rules = ", ".join(finding.rule for finding in against)


@dataclass(frozen=True)
class Dataset:
    """A reference to data somewhere else, and the terms of its use. No data is kept here.

    `residency` is the countries in which it may lie; empty is anywhere in the network.
    """

    id: DatasetId
    revision: int
    factory_id: FactoryId
    title: str
    description: str
    licence: str
    sensitivity: Sensitivity
    grade: Grade
    residency: tuple[str, ...]
    location: str
    size_bytes: int | None
    legal_basis: LegalBasis | None
    contact: str
    retired: bool
    changed_at: datetime


@dataclass(frozen=True)
class Project:
    """What the Data Lab must know of a project."""

    id: ProjectId
    factory_id: FactoryId
    closed: bool


@dataclass(frozen=True)
class Place:
    """Where a project computes: one allocation, on a machine whose country may not be known yet."""

    allocation_id: AllocationId
    machine_id: MachineId
    country: str | None
    ends_at: datetime


@dataclass(frozen=True)
class Finding:
    """What one rule says of one request. `unknown` waits for a fact that has not arrived."""

    rule: str
    outcome: Outcome
    because: str
    source: str


@dataclass(frozen=True)
class AccessRequest:
    """A project asks to use a dataset. Decided once, by the rules or by a steward."""

    id: str
    dataset_id: DatasetId
    project_id: ProjectId
    factory_id: FactoryId
    purpose: str
    legal_basis: LegalBasis | None
    requested_by: Subject
    requested_at: datetime
    state: State = "pending"
    waits_for: Waits | None = None
    findings: tuple[Finding, ...] = ()
    decided_by: Literal["rule", "steward"] | None = None
    steward: Subject | None = None
    steward_reason: str | None = None
    decided_at: datetime | None = None
    expires_at: datetime | None = None

    def in_force(self, now: datetime) -> bool:
        """Whether the project may use the dataset at this moment."""
        return self.state == "granted" and (self.expires_at is None or self.expires_at > now)

    def reasons(self) -> list[str]:
        """Every rule that was looked at, then the steward's own words, for people."""
        cited = [f"{finding.rule}: {finding.because}" for finding in self.findings]
        return [*cited, f"steward: {self.steward_reason}"] if self.steward_reason else cited


def check_location(location: str) -> None:
    """Refuse a reference that cannot be one, or that would hand out a credential to every reader.

    Raises: LocationRefused.

    >>> check_location("s3://lumi-o/finnish-speech/")
    >>> check_location("https://bob:secret@example.eu/speech.tar")
    Traceback (most recent call last):
    aifn_datalab.domain.LocationRefused: the location carries a user name or password
    """
    if not location.isprintable() or any(letter.isspace() or letter == "\\" for letter in location):
        raise LocationRefused("the location holds a space, a backslash or a control character")
    try:
        parts = urlsplit(location)
        user, host = parts.username, parts.hostname
    except ValueError:
        raise LocationRefused("the location cannot be read as a URL") from None
    if parts.scheme not in SCHEMES:
        raise LocationRefused(f"the location begins with none of {', '.join(sorted(SCHEMES))}")
    if user is not None or "@" in parts.netloc:
        raise LocationRefused("the location carries a user name or password")
    if parts.scheme in _HOSTED and not host:
        raise LocationRefused("the location names no host or bucket")
    if parts.scheme not in _HOSTED and not parts.path.strip("/:"):
        raise LocationRefused("the location names nothing")
    for name, _ in [*parse_qsl(parts.query, keep_blank_values=True), *parse_qsl(parts.fragment)]:
        if name.lower() in _SECRETS:
            raise LocationRefused(f"the location carries a credential in `{name[:60]}`")


def check_description(dataset: Dataset) -> None:
    """Check that a description is whole and does not contradict itself.

    Raises: LocationRefused, DescriptionIncomplete.
    """
    check_location(dataset.location)
    if dataset.sensitivity == "personal":
        if dataset.legal_basis is None:
            raise DescriptionIncomplete(f"personal data need a legal basis ({GDPR}, Article 6)")
        if not dataset.residency:
            raise DescriptionIncomplete("personal data need the countries in which they may lie")
    if dataset.grade == "open" and dataset.sensitivity in ("internal", "confidential"):
        raise DescriptionIncomplete(f"data of the open grade cannot be {dataset.sensitivity}")


def revise(before: Dataset, after: Dataset) -> Dataset:
    """The next revision of a dataset, in the words of `after`. Raises as `check_description`, and DatasetRetired."""
    if before.retired:
        raise DatasetRetired(before.id)
    check_description(after)
    return replace(after, id=before.id, factory_id=before.factory_id, revision=before.revision + 1, retired=False)


def retire(before: Dataset, now: datetime) -> Dataset:
    """Take a dataset off offer. Raises: DatasetRetired, when it is off already."""
    if before.retired:
        raise DatasetRetired(before.id)
    return replace(before, revision=before.revision + 1, retired=True, changed_at=now)


def look_at(dataset: Dataset, project: Project, request: AccessRequest, places: Sequence[Place]) -> list[Finding]:
    """Ask every rule that concerns this request; the answers stand in a fixed order.

    Args:
        places: one for each allocation of the project that has not ended.
    """
    findings = [_on_offer(dataset), _project_open(project)]
    if dataset.sensitivity == "open" and dataset.grade == "open":
        return [*findings, Finding("open_data", "passed", f"open data under {dataset.licence}", DATA_LABS)]
    if dataset.sensitivity != "open":
        findings.append(_purpose(request))
    if dataset.sensitivity == "personal":
        findings.append(_legal_basis(request))
    findings.append(_allocation(places))
    if dataset.residency:
        findings.append(_residency(dataset, places))
    if dataset.sensitivity == "internal" and project.factory_id != dataset.factory_id:
        because = f"internal to {dataset.factory_id}, and the project is hosted by {project.factory_id}"
        findings.append(Finding("own_factory", "ask_steward", because, TERMS))
    if dataset.sensitivity == "confidential":
        findings.append(Finding("confidential", "ask_steward", "confidential data are granted by a steward", TERMS))
    if dataset.grade == "industrial":
        because = "industrial data are granted by a steward: trusted, secured access"
        findings.append(Finding("industrial_grade", "ask_steward", because, DATA_LABS))
    return findings


def _on_offer(dataset: Dataset) -> Finding:
    if dataset.retired:
        return Finding("on_offer", "failed", "the dataset is retired", TERMS)
    return Finding("on_offer", "passed", "the dataset is on offer", TERMS)


def _project_open(project: Project) -> Finding:
    if project.closed:
        return Finding("project_open", "failed", f"project {project.id} is closed", "Data Lab")
    return Finding("project_open", "passed", f"project {project.id} is open", "Data Lab")


def _purpose(request: AccessRequest) -> Finding:
    source = f"{GDPR}, Article 5(1)(b)"
    if not request.purpose.strip():
        return Finding("purpose", "failed", "no purpose is stated", source)
    return Finding("purpose", "passed", "a purpose is stated", source)


def _legal_basis(request: AccessRequest) -> Finding:
    source = f"{GDPR}, Article 6(1)"
    if request.legal_basis is None:
        return Finding("legal_basis", "failed", "personal data need a legal basis, and none is named", source)
    return Finding("legal_basis", "passed", f"the project relies on {request.legal_basis}", source)


def _allocation(places: Sequence[Place]) -> Finding:
    if not places:
        return Finding("allocation", "unknown", "no running allocation of the project is known", TERMS)
    return Finding("allocation", "passed", "the project has an allocation, with which a grant ends", TERMS)


def _residency(dataset: Dataset, places: Sequence[Place]) -> Finding:
    allowed = ", ".join(dataset.residency)
    outside = sorted(
        {f"{p.machine_id} ({p.country})" for p in places if p.country and p.country not in dataset.residency}
    )
    unknown = sorted({p.machine_id for p in places if p.country is None})
    inside = any(p.country in dataset.residency for p in places)
    if outside and not inside and not unknown:
        return Finding("residency", "failed", f"may lie in {allowed} only, not on {', '.join(outside)}", TERMS)
    if unknown or not places:
        where = f"the country of {', '.join(unknown)}" if unknown else "where the project computes"
        return Finding("residency", "unknown", f"may lie in {allowed} only, and {where} is not known", TERMS)
    if outside:
        because = f"may lie in {allowed} only, and the project also computes on {', '.join(outside)}"
        return Finding("residency", "ask_steward", because, TERMS)
    return Finding("residency", "passed", f"the project computes in {allowed} only", TERMS)


def decide(
    dataset: Dataset, project: Project, request: AccessRequest, places: Sequence[Place], now: datetime
) -> AccessRequest:
    """Decide by rule where that is possible, else say what the request waits for.

    One failed rule refuses. A question for the steward waits for the steward, a fact that is missing for the fact.
    """
    findings = tuple(look_at(dataset, project, request, places))
    outcomes = {finding.outcome for finding in findings}
    looked_at = replace(request, findings=findings)
    if "failed" in outcomes:
        return replace(looked_at, state="refused", waits_for=None, decided_by="rule", decided_at=now)
    if "ask_steward" in outcomes:
        return replace(looked_at, waits_for="steward")
    if "unknown" in outcomes:
        return replace(looked_at, waits_for="allocation")
    expires_at = grant_end(dataset, places)
    return replace(looked_at, state="granted", waits_for=None, decided_by="rule", decided_at=now, expires_at=expires_at)


def grant_end(dataset: Dataset, places: Sequence[Place]) -> datetime | None:
    """When a grant ends: with the project's last allocation in a country where the data may lie; None without any."""
    ends = [p.ends_at for p in places if not dataset.residency or p.country in dataset.residency]
    return max(ends or [p.ends_at for p in places], default=None)


def answer(
    dataset: Dataset,
    project: Project,
    request: AccessRequest,
    places: Sequence[Place],
    *,
    granted: bool,
    reason: str,
    steward: Subject,
    now: datetime,
) -> AccessRequest:
    """A steward's decision. The rules are asked again: they may have changed their mind since the request.

    Raises: AlreadyDecided; GrantForbidden, when a rule fails, or personal data would go to an unknown place.
    """
    if request.state != "pending":
        raise AlreadyDecided(request.id, request.state)
    findings = tuple(look_at(dataset, project, request, places))
    barriers = ("failed", "unknown") if dataset.sensitivity == "personal" else ("failed",)
    if granted and any(finding.outcome in barriers for finding in findings):
        raise GrantForbidden(request.id, findings)
    return replace(
        request,
        findings=findings,
        state="granted" if granted else "refused",
        waits_for=None,
        decided_by="steward",
        steward=steward,
        steward_reason=reason,
        decided_at=now,
        expires_at=grant_end(dataset, places) if granted else None,
    )


def check_not_asked_twice(earlier: Iterable[AccessRequest], wish: AccessRequest, now: datetime) -> None:
    """Refuse a second request for the same dataset while the first is open, or in force for at least as long.

    Args:
        earlier: requests of the same project for the same dataset.
        wish: the new request, already decided by rule or left pending.
    Raises: RequestOpen, AlreadyGranted.
    """
    for before in earlier:
        if before.state == "pending":
            raise RequestOpen(before.id)
        if before.in_force(now) and not _lasts_longer(wish, before):
            raise AlreadyGranted(before.id)


def _lasts_longer(wish: AccessRequest, before: AccessRequest) -> bool:
    if wish.state != "granted":
        return False
    return before.expires_at is not None and (wish.expires_at is None or wish.expires_at > before.expires_at)
