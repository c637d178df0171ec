"""The starter catalogue: an example that says so, whose references lead somewhere."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from aifn_registry.seed import load


def _seed(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files("aifn_skills").joinpath("seed", name).read_text(encoding="utf-8"))
    return content


COURSES: dict[str, dict[str, Any]] = {course["id"]: course for course in _seed("courses.json")["courses"]}
RULES: list[dict[str, Any]] = _seed("advice_rules.json")["rules"]


def test_catalogue_and_rules_say_that_they_are_examples() -> None:
    assert [_seed(name)["nature"] for name in ("courses.json", "advice_rules.json")] == ["example", "example"]
    assert len(COURSES) == len(_seed("courses.json")["courses"]) == 16


def test_the_porting_course_is_there_for_people_who_know_batch_systems() -> None:
    course = COURSES["rocm-porting"]
    assert course["level"] == "hpc_familiar"
    assert "rocm" in course["topics"]
    assert course["provider_factory_id"] == "lumi-aif"
    assert course["sessions"]


def test_every_course_has_a_known_provider_kind_level_and_a_session_with_seats() -> None:
    factories = {factory.factory_id for factory in load().factories}
    for course in COURSES.values():
        assert course["provider_factory_id"] in factories
        assert course["kind"] in {"workshop", "mooc", "hands_on", "sandbox"}
        assert course["level"] in {"entry", "hpc_familiar", "expert"}
        assert course["sessions"]
        assert all(s["seats"] >= 1 and s["starts_in_days"] >= 0 for s in course["sessions"])
        assert all(s["mode"] in {"online", "onsite"} for s in course["sessions"])


def test_every_kind_and_every_level_occurs() -> None:
    assert {course["kind"] for course in COURSES.values()} == {"workshop", "mooc", "hands_on", "sandbox"}
    assert {course["level"] for course in COURSES.values()} == {"entry", "hpc_familiar", "expert"}


def test_session_ids_are_unique() -> None:
    sessions = [session["id"] for course in COURSES.values() for session in course["sessions"]]
    assert len(sessions) == len(set(sessions)) > len(COURSES)


def test_prerequisites_are_courses_of_the_same_or_a_lower_level_and_never_a_circle() -> None:
    rank = {"entry": 0, "hpc_familiar": 1, "expert": 2}

    def depth(course_id: str, above: tuple[str, ...] = ()) -> int:
        assert course_id not in above
        return 1 + max((depth(p, (*above, course_id)) for p in COURSES[course_id]["prerequisites"]), default=0)

    for course in COURSES.values():
        assert all(rank[COURSES[p]["level"]] <= rank[course["level"]] for p in course["prerequisites"])
    assert max(depth(course_id) for course_id in COURSES) == 4


def test_every_rule_suggests_a_course_for_a_reason_and_from_known_facts_only() -> None:
    assert len({rule["id"] for rule in RULES}) == len(RULES) == 3
    for rule in RULES:
        assert rule["suggest"] in COURSES
        assert rule["because"]
        assert set(rule["when"]) <= {"fact", "gpu_vendor", "mode_id", "first_for"}
        assert rule["when"]["fact"] == "award-granted"


def test_the_first_amd_project_is_sent_to_the_porting_course() -> None:
    rule = next(rule for rule in RULES if rule["when"].get("gpu_vendor") == "AMD")
    assert (rule["id"], rule["suggest"]) == ("first-amd-project", "rocm-porting")
    assert rule["when"]["first_for"] == "project"
