"""A setting that a service needs and nobody tells it, one that nobody knows, one that is wrong: each is found."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from aifn_common.settings import ServiceSettings
from aifn_k8s.render import Rendered
from aifn_k8s.told import read_documents, untold
from aifn_k8s.workloads import settings_by_service
from pydantic import Field

from tests.support.manifests import ROOT

Object = dict[str, Any]


def _changed(rendered: Rendered, kind: str, prefix: str, change: Callable[[Object], None]) -> Rendered:
    objects = [copy.deepcopy(one) for one in rendered.objects]
    found = [one for one in objects if one["kind"] == kind and one["metadata"]["name"].startswith(prefix)]
    assert found
    for one in found:
        change(one)
    return Rendered(rendered.name, tuple(objects))


def test_every_service_is_told_what_it_must_know(rendered: dict[str, Rendered]) -> None:
    assert untold(rendered.values(), settings_by_service(), read_documents(ROOT)) == []


@pytest.mark.parametrize(
    ("prefix", "change", "said"),
    [
        ("accounting-", lambda one: one["data"].pop("AIFN_DATABASE_URL"), "AIFN_DATABASE_URL is not set"),
        ("accounting-", lambda one: one["data"].pop("AIFN_PSEUDONYM_KEY_FILE"), "AIFN_PSEUDONYM_KEY is not set"),
        ("site-", lambda one: one["data"].pop("AIFN_FACTORY"), "AIFN_FACTORY is not set"),
        ("settings-", lambda one: one["data"].update(AIFN_LOGLEVEL="INFO"), "AIFN_LOGLEVEL is a setting of nobody"),
        ("settings-", lambda one: one["data"].update(AIFN_LOG_LEVEL="LOUD"), "AIFN_LOG_LEVEL is wrong"),
        ("settings-", lambda one: one["data"].update(AIFN_STOP_SECONDS="soon"), "AIFN_STOP_SECONDS is wrong"),
        (
            "kafka-client-",
            lambda one: one["data"].update(AIFN_KAFKA_CA_FILE="/etc/nowhere/ca.crt"),
            "AIFN_KAFKA_CA_FILE names /etc/nowhere/ca.crt, and nothing is mounted there",
        ),
    ],
)
def test_what_a_service_would_refuse_at_its_start_is_found_before(
    rendered: dict[str, Rendered], prefix: str, change: Callable[[Object], None], said: str
) -> None:
    spoilt = _changed(rendered["lumi-aif"], "ConfigMap", prefix, change)
    lines = untold([spoilt], settings_by_service(), read_documents(ROOT))
    assert any(said in line and line.startswith("lumi-aif: ") for line in lines), lines


class _Demanding(ServiceSettings):
    unheard_of: str = Field(description="nobody gives it")


def test_a_setting_that_was_added_and_forgotten_is_found(rendered: dict[str, Rendered]) -> None:
    settings = settings_by_service() | {"skills": _Demanding}
    lines = untold([rendered["dev"]], settings, read_documents(ROOT))
    assert "docs: AIFN_UNHEARD_OF is not in docs/configuration.md" in lines
    assert "dev: Deployment/skills-api: AIFN_UNHEARD_OF is not set, and has no default" in lines


def test_a_service_whose_settings_nobody_knows_is_found(rendered: dict[str, Rendered]) -> None:
    settings = {name: kind for name, kind in settings_by_service().items() if name != "skills"}
    lines = untold([rendered["dev"]], settings, read_documents(ROOT))
    assert "dev: StatefulSet/skills-worker: nobody knows the settings of skills" in lines
