"""Answers over HTTP on access: modes and calls, applications and awards."""

from datetime import datetime
from typing import Annotated, Literal, Self

from aifn_common.cursors import number_in
from aifn_common.errors import NotFound
from aifn_common.web import Page, Paging, Tx, Who, make_page, make_router
from aifn_events.vocabulary import (
    ApplicationId,
    Count,
    CountryCode,
    Flag,
    ModeId,
    PartitionId,
    Slug,
)
from fastapi import Query, Response
from pydantic import BaseModel, Field, StringConstraints, model_validator

from aifn_scheduler.actions import access as access_actions
from aifn_scheduler.api.shapes import Body, Settings, Title, plain_in
from aifn_scheduler.domain.access import Application, Ask, Call, Finding, Organisation, amounts_in_words
from aifn_scheduler.policy_data import AccessMode, load_policies
from aifn_scheduler.store import access as access_store
from aifn_scheduler.store.access import Filed

router = make_router()

GpuHours = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000, description="GPU-hours, whole and above zero")]
StatementName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")]


class ModeView(BaseModel):
    """An access mode as its published call describes it; null is *not published*."""

    mode_id: str = Field(examples=["aif_playground"])
    name: str = Field(examples=["AI Factory Playground"])
    status: str = Field(description="current, historical, proposed, ...", examples=["current"])
    policy_version: str | None = Field(examples=["2025-12"])
    purpose: str | None = Field(examples=["entry-level plug-and-play use"])
    applicant_kinds: list[str] = Field(description="these, and every kind below them", examples=[["sme", "startup"]])
    excluded_kinds: list[str] = Field(examples=[["academia", "public_sector"]])
    conditions: list[str] = Field(examples=[["civilian_use_only", "ai_act_compliance"]])
    ordering: str | None = Field(examples=["first_come_first_served"])
    amount_unit: str | None = Field(examples=["gpu_hours"])
    gpu_hours: str = Field(description="how many GPU-hours, in words", examples=["5000"])
    duration_months: list[int] | None = Field(examples=[[1, 2, 3]])
    single_machine: bool | None = Field(examples=[True])
    deciding_authority: str = Field(examples=["hosting_factory"])
    pool: str = Field(examples=["union"])
    support_level: str | None = Field(examples=["onboarding"])
    obligations: list[str] = Field(examples=[["final_report"]])
    confidence: str = Field(examples=["medium"])
    source: list[str] = Field(examples=[["EuroHPC JU, AI Factories slide deck (2025)"]])
    notes: str | None = Field(examples=[None])

    @classmethod
    def of(cls, mode: AccessMode) -> Self:
        """The view of a mode."""
        months = mode.allocation_duration_months
        return cls(
            mode_id=mode.mode_id,
            name=mode.name,
            status=mode.status,
            policy_version=mode.policy_version,
            purpose=mode.purpose,
            applicant_kinds=list(mode.applicant_categories),
            excluded_kinds=list(mode.excluded),
            conditions=list(mode.eligibility_conditions),
            ordering=mode.ordering,
            amount_unit=mode.allocation_unit,
            gpu_hours=amounts_in_words(mode),
            duration_months=None if months is None else list(months),
            single_machine=mode.single_machine_only,
            deciding_authority=mode.deciding_authority,
            pool=mode.pool,
            support_level=mode.support_level,
            obligations=list(mode.obligations),
            confidence=mode.confidence,
            source=list(mode.source),
            notes=mode.notes,
        )


class CallView(BaseModel):
    """A call that takes applications."""

    call_id: str = Field(examples=["aif-playground"])
    mode: str = Field(examples=["aif_playground"])
    policy_version: str = Field(examples=["2025-12"])
    pool: Literal["union", "national"] = Field(examples=["union"])
    deciding_authority: str = Field(examples=["hosting_factory"])
    technical_check: Literal["automatic", "manual"] = Field(examples=["automatic"])
    opens_at: datetime = Field(examples=["2025-12-01T00:00:00Z"])
    closes_at: datetime | None = Field(description="null: no cut-off", examples=[None])
    partitions: list[str] | None = Field(description="null: any that operates", examples=[None])
    single_machine: bool = Field(examples=[True])

    @classmethod
    def of(cls, call: Call) -> Self:
        """The view of a call."""
        return cls(
            call_id=call.call_id,
            mode=call.mode,
            policy_version=call.policy_version,
            pool=call.pool,
            deciding_authority=call.deciding_authority,
            technical_check=call.technical_check,
            opens_at=call.opens_at,
            closes_at=call.closes_at,
            partitions=None if call.partitions is None else list(call.partitions),
            single_machine=call.single_machine,
        )


class OrganisationBody(Body):
    """Who applies."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)] = Field(
        pattern=r"^[^\x00]*$", examples=["Puhe Oy"]
    )
    kind: str = Field(pattern=r"^[a-z_]{1,60}$", description="as in the applicant kinds", examples=["startup"])
    country: CountryCode = Field(description="where it is established")
    staff: Count = Field(description="number of employees", examples=[12])
    turnover_eur: Annotated[int, Field(strict=True, ge=0, le=10**15)] | None = Field(
        default=None, description="per year; null is not stated", examples=[900_000]
    )


class AskBody(Body):
    """How much on which partition."""

    partition_id: PartitionId
    gpu_hours: GpuHours = Field(examples=[5000])


class ApplicationBody(Body):
    """An application under one call."""

    call_id: Slug = Field(examples=["aif-playground"])
    title: Title = Field(pattern=r"^[^\x00]*$", examples=["Speech models for small languages"])
    organisation: OrganisationBody
    asks: list[AskBody] = Field(min_length=1, max_length=16)
    months: Annotated[int, Field(strict=True, ge=1, le=120)] = Field(examples=[2])
    statements: dict[StatementName, Flag] = Field(
        max_length=32, examples=[{"civilian_use": True, "ai_act_compliance": True}]
    )
    contact: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] | None = Field(
        default=None, examples=["info@puhe.example"]
    )

    @model_validator(mode="after")
    def _asks_once_for_each(self) -> Self:
        names = [ask.partition_id for ask in self.asks]
        if len(set(names)) < len(names):
            raise ValueError("a partition is asked for twice; add the amounts")
        return self

    def said(self) -> Application:
        """The application as the rules read it."""
        organisation = self.organisation
        return Application(
            title=self.title,
            organisation=Organisation(
                name=organisation.name,
                kind=organisation.kind,
                country=organisation.country,
                staff=organisation.staff,
                turnover_eur=organisation.turnover_eur,
            ),
            asks=tuple(Ask(ask.partition_id, ask.gpu_hours) for ask in self.asks),
            months=self.months,
            statements=self.statements,
        )


class FindingView(BaseModel):
    """What one rule said."""

    rule: str = Field(examples=["applicant_kind"])
    passed: bool = Field(examples=[True])
    because: str = Field(examples=["startup is sme is industry; AI Factory Playground is open to startup"])
    source: str = Field(examples=["EuroHPC JU, AI Factories slide deck (2025)"])

    @classmethod
    def of(cls, finding: Finding) -> Self:
        """The view of a finding."""
        return cls(rule=finding.rule, passed=finding.passed, because=finding.because, source=finding.source)


class AwardView(BaseModel):
    """What was granted for an application."""

    award_id: str = Field(examples=["award-0198c7d3"])
    project_id: str = Field(examples=["aif-2026-0117"])
    awarded_at: datetime = Field(examples=["2026-11-21T09:00:00Z"])
    awarded_by: str = Field(examples=["urn:aifn:scheduler"])
    reason: str = Field(examples=["the call's technical check is automatic, and every rule has passed"])


class ApplicationView(BaseModel):
    """An application, what every rule said of it, and its award."""

    application_id: str = Field(examples=["app-0198c7d2"])
    call_id: str = Field(examples=["aif-playground"])
    title: str = Field(examples=["Speech models for small languages"])
    organisation: OrganisationBody
    asks: list[AskBody]
    months: int = Field(examples=[2])
    statements: dict[str, bool] = Field(examples=[{"civilian_use": True, "ai_act_compliance": True}])
    contact: str | None = Field(examples=["info@puhe.example"])
    submitted_by: str = Field(examples=["7c1d@myaccessid"])
    submitted_at: datetime = Field(examples=["2026-11-21T09:00:00Z"])
    state: Literal["refused", "eligible", "awarded"] = Field(examples=["awarded"])
    eligible: bool = Field(examples=[True])
    waiting_before: int | None = Field(
        description="eligible applications of the call that came earlier and still wait; null if it does not wait",
        examples=[None],
    )
    findings: list[FindingView]
    award: AwardView | None

    @classmethod
    def of(cls, filed: Filed) -> Self:
        """The view of an application."""
        application, award = filed.application, filed.award
        return cls.model_validate(
            {
                "application_id": filed.application_id,
                "call_id": filed.call_id,
                "title": application.title,
                "organisation": {
                    name: getattr(application.organisation, name) for name in application.organisation.__slots__
                },
                "asks": [{"partition_id": ask.partition_id, "gpu_hours": ask.gpu_hours} for ask in application.asks],
                "months": application.months,
                "statements": application.statements,
                "contact": filed.contact,
                "submitted_by": filed.submitted_by,
                "submitted_at": filed.submitted_at,
                "state": filed.state,
                "eligible": filed.eligible,
                "waiting_before": filed.before if filed.state == "eligible" else None,
                "findings": [FindingView.of(finding) for finding in filed.findings],
                "award": award and {name: getattr(award, name) for name in award.__slots__},
            }
        )


class AwardBody(Body):
    """Why an application is granted."""

    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)] = Field(
        pattern=r"^[^\x00]*$", examples=["scaling shown on the test machine"]
    )


@router.get("/modes", summary="Access modes as their calls describe them", tags=["access"])
async def list_modes(who: Who, page: Paging) -> Page[ModeView]:
    who.must("mode.read")
    modes = sorted(load_policies().modes, key=lambda mode: mode.mode_id)
    rest = [ModeView.of(mode) for mode in modes if mode.mode_id > (page.after or "")]
    return make_page(rest[: page.limit + 1], page.limit, lambda view: view.mode_id)


@router.get("/modes/{mode_id}", summary="One access mode", tags=["access"])
async def get_mode(mode_id: ModeId, who: Who) -> ModeView:
    who.must("mode.read")
    try:
        return ModeView.of(load_policies().mode(mode_id))
    except KeyError:
        raise NotFound(f"no access mode {mode_id}") from None


@router.get("/calls", summary="Calls that take applications", tags=["access"])
async def list_calls(tx: Tx, who: Who, page: Paging) -> Page[CallView]:
    who.must("mode.read")
    calls = await access_store.list_calls(tx, plain_in(page.after or ""), page.limit + 1)
    return make_page([CallView.of(call) for call in calls], page.limit, lambda view: view.call_id)


@router.post("/applications", status_code=201, summary="Apply; every rule answers at once", tags=["access"])
async def submit_application(
    body: ApplicationBody, tx: Tx, who: Who, settings: Settings, response: Response
) -> ApplicationView:
    who.must("application.submit", subject=who.subject)
    filed = await access_actions.submit_application(
        tx, body.call_id, body.said(), contact=body.contact, submitted_by=who.subject, settings=settings
    )
    response.headers["location"] = f"/v1/applications/{filed.application_id}"
    return ApplicationView.of(filed)


@router.get("/applications", summary="Applications in the order of submission", tags=["access"])
async def list_applications(
    tx: Tx,
    who: Who,
    settings: Settings,
    page: Paging,
    call_id: Annotated[Slug | None, Query()] = None,
    state: Annotated[Literal["refused", "eligible", "awarded"] | None, Query()] = None,
) -> Page[ApplicationView]:
    scope = who.scope("application.read")
    found = await access_store.list_applications(
        tx,
        everything=scope.everything or settings.factory in scope.factories,
        calls=scope.calls,
        submitted_by=scope.subject,
        call_id=call_id,
        state=state,
        after=number_in(page.after),
        limit=page.limit + 1,
    )
    shown = make_page(found, page.limit, lambda filed: str(filed.place))
    return Page(items=[ApplicationView.of(filed) for filed in shown.items], next=shown.next)


@router.get("/applications/{application_id}", summary="One application with its findings", tags=["access"])
async def get_application(application_id: ApplicationId, tx: Tx, who: Who, settings: Settings) -> ApplicationView:
    filed = await access_store.get_application(tx, application_id)
    who.must("application.read", subject=filed.submitted_by, call=filed.call_id, factory=settings.factory)
    return ApplicationView.of(filed)


@router.post("/applications/{application_id}/award", summary="Grant after a technical check", tags=["access"])
async def award_application(
    application_id: ApplicationId, body: AwardBody, tx: Tx, who: Who, settings: Settings
) -> ApplicationView:
    waiting = await access_store.get_application(tx, application_id)
    who.must("application.award", call=waiting.call_id, factory=settings.factory)
    filed = await access_actions.award_application(
        tx, application_id, by=who.subject, reason=body.reason, settings=settings
    )
    return ApplicationView.of(filed)
