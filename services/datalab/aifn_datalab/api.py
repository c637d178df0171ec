"""HTTP of the Data Lab: datasets on offer, requests for access, decisions."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from aifn_common import clock
from aifn_common.web import (
    Page,
    Paging,
    Tx,
    Who,
    check_if_match,
    make_page,
    make_router,
    not_modified,
    set_etag,
    settings_of,
)
from aifn_events.vocabulary import Amount, CountryCode, DatasetId, FactoryId, ProjectId, Slug
from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from aifn_datalab import actions, store
from aifn_datalab.domain import AccessRequest, Dataset, Grade, LegalBasis, Outcome, Sensitivity, State, Waits
from aifn_datalab.settings import DatalabSettings

router = make_router()
Settings = Annotated[DatalabSettings, Depends(settings_of)]
ShortText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class DatasetWords(BaseModel):
    """What a data steward says of a dataset."""

    model_config = ConfigDict(extra="forbid")

    title: ShortText = Field(examples=["Finnish speech corpus"])
    description: str = Field(default="", max_length=4000, examples=["1,600 hours of read and free speech"])
    licence: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)] = Field(
        description="SPDX identifier or the name of an agreement", examples=["CC-BY-4.0"]
    )
    sensitivity: Sensitivity = Field(examples=["open"])
    grade: Grade = Field(examples=["open"])
    residency: list[CountryCode] = Field(
        default=[],
        max_length=60,
        description="countries in which it may lie; empty is anywhere in the network; personal data need some",
        examples=[["FI"]],
    )
    location: str = Field(
        min_length=1,
        max_length=2000,
        description="a reference, never the data: s3, swift, https, urn or doi, without any credential",
        examples=["s3://lumi-o/finnish-speech/"],
    )
    size_bytes: Amount | None = Field(default=None, description="null is not known", examples=[184_000_000_000])
    legal_basis: LegalBasis | None = Field(
        default=None, description="of GDPR Article 6(1); personal data need one", examples=["public_task"]
    )
    contact: ShortText = Field(description="whom to ask", examples=["datalab@lumi-ai-factory.example"])

    def dataset(self, dataset_id: DatasetId, factory_id: FactoryId) -> Dataset:
        """These words as the first revision of a dataset."""
        return Dataset(
            id=dataset_id,
            revision=0,
            factory_id=factory_id,
            title=self.title,
            description=self.description,
            licence=self.licence,
            sensitivity=self.sensitivity,
            grade=self.grade,
            residency=tuple(sorted(set(self.residency))),
            location=self.location,
            size_bytes=self.size_bytes,
            legal_basis=self.legal_basis,
            contact=self.contact,
            retired=False,
            changed_at=clock.now(),
        )


class NewDataset(DatasetWords):
    """A dataset that is not described yet."""

    dataset_id: DatasetId = Field(examples=["finnish-speech"])


class DatasetView(BaseModel):
    """A dataset that can be asked for."""

    dataset_id: DatasetId = Field(examples=["finnish-speech"])
    revision: int = Field(examples=[0])
    factory_id: FactoryId = Field(description="whose Data Lab brokers it", examples=["lumi-aif"])
    title: str = Field(examples=["Finnish speech corpus"])
    description: str = Field(examples=["1,600 hours of read and free speech"])
    licence: str = Field(examples=["CC-BY-4.0"])
    sensitivity: Sensitivity = Field(examples=["open"])
    grade: Grade = Field(examples=["open"])
    residency: list[CountryCode] = Field(examples=[["FI"]])
    location: str = Field(examples=["s3://lumi-o/finnish-speech/"])
    size_bytes: int | None = Field(examples=[184_000_000_000])
    legal_basis: LegalBasis | None = Field(examples=["public_task"])
    contact: str = Field(examples=["datalab@lumi-ai-factory.example"])
    retired: bool = Field(examples=[False])
    changed_at: datetime = Field(examples=["2026-11-21T09:00:00Z"])

    @classmethod
    def of(cls, dataset: Dataset) -> "DatasetView":
        """A dataset for readers."""
        values = asdict(dataset)
        return cls(dataset_id=values.pop("id"), **values)


class Wish(BaseModel):
    """A project asks to use a dataset."""

    model_config = ConfigDict(extra="forbid")

    dataset_id: DatasetId = Field(examples=["finnish-speech"])
    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    purpose: str = Field(
        default="",
        max_length=2000,
        description="what the data are for; needed for all but open data",
        examples=["train a speech model"],
    )
    legal_basis: LegalBasis | None = Field(
        default=None, description="of GDPR Article 6(1); needed for personal data", examples=["public_task"]
    )


class ReasonView(BaseModel):
    """What one rule said of a request."""

    rule: str = Field(examples=["residency"])
    outcome: Outcome = Field(description="`unknown` waits for a fact that has not arrived", examples=["passed"])
    because: str = Field(examples=["the project computes in FI only"])
    source: str = Field(description="where the rule comes from", examples=["terms of the dataset"])


class AccessRequestView(BaseModel):
    """A request for access, and what became of it."""

    request_id: Slug = Field(examples=["req-0198c7d5"])
    dataset_id: DatasetId = Field(examples=["finnish-speech"])
    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    factory_id: FactoryId = Field(description="whose Data Lab decides", examples=["lumi-aif"])
    purpose: str = Field(examples=["train a speech model"])
    legal_basis: LegalBasis | None = Field(examples=["public_task"])
    requested_by: str = Field(examples=["7c1d@myaccessid"])
    requested_at: datetime = Field(examples=["2026-11-21T09:04:00Z"])
    state: State = Field(examples=["granted"])
    waits_for: Waits | None = Field(description="what a pending request waits for", examples=[None])
    reasons: list[ReasonView] = Field(description="every rule that was looked at")
    decided_by: Literal["rule", "steward"] | None = Field(examples=["rule"])
    steward: str | None = Field(description="who decided, when it was a person", examples=[None])
    steward_reason: str | None = Field(examples=[None])
    decided_at: datetime | None = Field(examples=["2026-11-21T09:04:00Z"])
    expires_at: datetime | None = Field(
        description="when a grant ends; null while no allocation limits it", examples=["2027-01-21T09:00:00Z"]
    )
    in_force: bool = Field(description="whether the project may use the dataset now", examples=[True])

    @classmethod
    def of(cls, request: AccessRequest) -> "AccessRequestView":
        """A request for readers, at this moment."""
        values = asdict(request)
        return cls(
            request_id=values.pop("id"),
            reasons=values.pop("findings"),
            in_force=request.in_force(clock.now()),
            **values,
        )


class Verdict(BaseModel):
    """A data steward's decision."""

    model_config = ConfigDict(extra="forbid")

    granted: bool = Field(examples=[True])
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)] = Field(
        examples=["agreement signed on 20 November"]
    )


@router.post("/datasets", status_code=201, summary="Describe a dataset", tags=["datasets"])
async def describe_dataset(body: NewDataset, response: Response, tx: Tx, who: Who, settings: Settings) -> DatasetView:
    """Put a dataset on offer. 409 `dataset_exists` if the name is taken."""
    who.must("dataset.write", factory=settings.factory)
    dataset = await actions.describe_dataset(tx, body.dataset(body.dataset_id, settings.factory))
    response.headers["location"] = f"/v1/datasets/{dataset.id}"
    set_etag(response, dataset.revision)
    return DatasetView.of(dataset)


@router.put("/datasets/{dataset_id}", summary="Change the description of a dataset", tags=["datasets"])
async def revise_dataset(
    dataset_id: DatasetId, body: DatasetWords, request: Request, response: Response, tx: Tx, who: Who
) -> DatasetView:
    """Replace the whole description; `If-Match` names the revision it was made from."""
    before = await store.get_dataset(tx, dataset_id, lock=True)
    who.must("dataset.write", factory=before.factory_id)
    check_if_match(request, before.revision)
    after = await actions.revise_dataset(tx, before, body.dataset(dataset_id, before.factory_id))
    set_etag(response, after.revision)
    return DatasetView.of(after)


@router.delete("/datasets/{dataset_id}", summary="Retire a dataset", tags=["datasets"])
async def retire_dataset(dataset_id: DatasetId, response: Response, tx: Tx, who: Who) -> DatasetView:
    """Take a dataset off offer; requests that still wait for it are refused, its history stays."""
    who.must("dataset.write", factory=(await store.get_dataset(tx, dataset_id)).factory_id)
    dataset = await actions.retire_dataset(tx, dataset_id)
    set_etag(response, dataset.revision)
    return DatasetView.of(dataset)


@router.get("/datasets", summary="Search datasets", tags=["datasets"])
async def list_datasets(
    tx: Tx,
    who: Who,
    page: Paging,
    q: Annotated[str | None, Query(max_length=200, description="beginnings of words")] = None,
    licence: Annotated[str | None, Query(max_length=100)] = None,
    sensitivity: Sensitivity | None = None,
    grade: Grade | None = None,
    residency: Annotated[CountryCode | None, Query(description="data that may lie in this country")] = None,
    retired: Annotated[bool, Query(description="show retired ones too")] = False,
) -> Page[DatasetView]:
    """Datasets by name. All filters must hold."""
    who.must("dataset.read")
    wanted = store.DatasetFilter(q, licence, sensitivity, grade, residency, retired)
    found = await store.list_datasets(tx, wanted, after=page.after, limit=page.limit + 1)
    return make_page([DatasetView.of(one) for one in found], page.limit, lambda view: view.dataset_id)


@router.get("/datasets/{dataset_id}", summary="One dataset", tags=["datasets"])
async def get_dataset(dataset_id: DatasetId, request: Request, response: Response, tx: Tx, who: Who) -> DatasetView:
    """A dataset with its ETag."""
    who.must("dataset.read")
    dataset = await store.get_dataset(tx, dataset_id)
    not_modified(request, dataset.revision)
    set_etag(response, dataset.revision)
    return DatasetView.of(dataset)


@router.post("/access-requests", status_code=201, summary="Ask to use a dataset", tags=["access"])
async def request_access(body: Wish, response: Response, tx: Tx, who: Who) -> AccessRequestView:
    """The rules answer at once where they can; else the request is pending and says what it waits for."""
    who.must("access.request", project=body.project_id)
    made = await actions.request_access(
        tx,
        dataset_id=body.dataset_id,
        project_id=body.project_id,
        purpose=body.purpose,
        legal_basis=body.legal_basis,
        requested_by=who.subject,
    )
    response.headers["location"] = f"/v1/access-requests/{made.id}"
    return AccessRequestView.of(made)


@router.post("/access-requests/{request_id}/decision", summary="Decide as a data steward", tags=["access"])
async def answer_request(request_id: Slug, body: Verdict, tx: Tx, who: Who) -> AccessRequestView:
    """409 `already_decided` if somebody was faster, 409 `grant_forbidden` if a rule stands against a grant."""
    who.must("access.decide", factory=(await store.get_request(tx, request_id)).factory_id)
    decided = await actions.answer_request(
        tx, request_id, granted=body.granted, reason=body.reason, steward=who.subject
    )
    return AccessRequestView.of(decided)


@router.get("/access-requests", summary="Requests for access", tags=["access"])
async def list_requests(
    tx: Tx,
    who: Who,
    page: Paging,
    project_id: ProjectId | None = None,
    dataset_id: DatasetId | None = None,
    state: State | None = None,
) -> Page[AccessRequestView]:
    """Requests of your projects, or of your factory's Data Lab; oldest first."""
    scope = who.scope("access.read")
    reach = store.Reach(scope.everything, scope.projects, scope.factories)
    wanted = store.RequestFilter(project_id, dataset_id, state)
    found = await store.list_requests(tx, reach, wanted, after=page.after, limit=page.limit + 1)
    return make_page([AccessRequestView.of(one) for one in found], page.limit, lambda view: view.request_id)


@router.get("/access-requests/{request_id}", summary="One request for access", tags=["access"])
async def get_request(request_id: Slug, tx: Tx, who: Who) -> AccessRequestView:
    """A request with every rule that was looked at."""
    found = await store.get_request(tx, request_id)
    who.must("access.read", project=found.project_id, factory=found.factory_id)
    return AccessRequestView.of(found)
