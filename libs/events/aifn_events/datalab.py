"""Facts about datasets and who may use them."""

from typing import ClassVar, Literal

from pydantic import Field

from aifn_events.base import Event
from aifn_events.vocabulary import CountryCode, DatasetId, FactoryId, Flag, Moment, ProjectId, Revision, Slug, Text


class DatasetDescribed(Event):
    """A dataset can be asked for; said again with a higher revision when something changes."""

    topic: ClassVar[str] = "aifn-dataset-described-v1"
    key_field: ClassVar[str] = "dataset_id"

    dataset_id: DatasetId = Field(examples=["finnish-speech"])
    revision: Revision = Field(examples=[0])
    factory_id: FactoryId = Field(description="whose Data Lab brokers it", examples=["lumi-aif"])
    title: str = Field(max_length=200, examples=["Finnish speech corpus"])
    licence: str = Field(
        max_length=100, description="SPDX identifier or the name of an agreement", examples=["CC-BY-4.0"]
    )
    sensitivity: Literal["open", "internal", "personal", "confidential"] = Field(examples=["open"])
    grade: Literal["open", "data_space", "industrial"] = Field(examples=["open"])
    residency: list[CountryCode] = Field(
        description="countries in which it may lie; empty is anywhere in the network", examples=[["FI"]]
    )
    location: Text = Field(description="a reference, never the data", examples=["s3://lumi-o/finnish-speech/"])
    retired: Flag = Field(default=False, examples=[False])


class DatasetAccessDecided(Event):
    """A project may use a dataset from now on, or may not, with the reasons."""

    topic: ClassVar[str] = "aifn-dataset-access-decided-v1"
    key_field: ClassVar[str] = "project_id"

    request_id: Slug = Field(examples=["req-0198c7d5"])
    dataset_id: DatasetId = Field(examples=["finnish-speech"])
    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    granted: Flag = Field(examples=[True])
    purpose: Text = Field(examples=["train a speech model"])
    reasons: list[Text] = Field(max_length=32, examples=[["the dataset is open"]])
    decided_by: Literal["rule", "steward"] = Field(examples=["rule"])
    decided_at: Moment = Field(examples=["2026-11-21T09:05:00Z"])
    expires_at: Moment | None = Field(default=None, examples=["2027-01-21T09:00:00Z"])
