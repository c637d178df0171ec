"""Rules that come with the package as data, each with its source: ceilings, use-or-lose, extensions."""

from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from aifn_accounting.domain.policies import ExtensionRule, UseOrLose


class CapRule(BaseModel):
    """A published ceiling; it binds where somebody puts it on a resource, with a base."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy_version: str = Field(examples=["2025-12"])
    mode_group: str = Field(examples=["playground_and_fast_lane"])
    modes: tuple[str, ...] = Field(examples=[["aif_playground", "aif_fast_lane"]])
    pct: int = Field(ge=0, le=100, examples=[10])
    base: str = Field(description="in the words of the source", examples=["EuroHPC share"])
    yields: bool = Field(description="gives way to the demand of other modes", examples=[False])
    carried_over: bool = Field(description="an older version's value, not confirmed for this one", examples=[False])
    source: tuple[str, ...] = Field(examples=[["Access Policy 2025.12"]])
    confidence: Literal["high", "medium", "low"] = Field(examples=["medium"])
    note: str | None


class _Caps(BaseModel):
    note: str
    caps: tuple[CapRule, ...]


class _Policies(BaseModel):
    note: str
    use_or_lose: tuple[UseOrLose, ...]
    extensions: tuple[ExtensionRule, ...]


@cache
def cap_rules() -> tuple[CapRule, ...]:
    """All published ceilings, in the order of version and group."""
    found = _Caps.model_validate_json(_text("share_caps.json")).caps
    return tuple(sorted(found, key=lambda rule: (rule.policy_version, rule.mode_group)))


@cache
def use_or_lose_policies() -> dict[str, UseOrLose]:
    """The policies a pool or a grant may stand under, by id."""
    return {one.id: one for one in _policies().use_or_lose}


def extension_rule(mode: str | None) -> ExtensionRule | None:
    """How awards of a mode may be extended; None where no source says."""
    return next((one for one in _policies().extensions if one.mode == mode), None)


@cache
def _policies() -> _Policies:
    return _Policies.model_validate_json(_text("allocation_policies.json"))


def _text(name: str) -> str:
    return files("aifn_accounting").joinpath("seed", name).read_text(encoding="utf-8")
