"""What is made from code is current, and the broker's rights are the catalogue's."""

import shutil
from pathlib import Path
from typing import Any

from aifn_events.catalog import TOPICS
from aifn_k8s import broker, generated
from aifn_k8s.members import members
from aifn_k8s.workloads import speaker, workloads
from aifn_registry import seed

from tests.support.manifests import TREE


def test_every_generated_manifest_in_the_repository_is_current() -> None:
    assert generated.stale(TREE) == []


def test_a_manifest_that_was_edited_lost_or_left_over_is_named_and_made_good(tmp_path: Path) -> None:
    copy = tmp_path / "k8s"
    shutil.copytree(TREE, copy, ignore=shutil.ignore_patterns("aifn_k8s", "schemas"))
    edited, lost, left = (
        "base/skills/api.yaml",
        "overlays/bsc-aif/kustomization.yaml",
        "overlays/gone/kustomization.yaml",
    )
    (copy / edited).write_text((copy / edited).read_text() + "# by hand\n")
    (copy / lost).unlink()
    (copy / "overlays/gone").mkdir()
    (copy / left).write_text((TREE / lost).read_text())
    assert generated.stale(copy) == sorted([edited, lost, left])
    assert generated.write(copy) == sorted([edited, lost, left])
    assert generated.stale(copy) == []


def test_every_factory_and_antenna_of_the_registry_has_an_overlay() -> None:
    known = seed.load()
    names = {one.factory_id for one in known.factories} | {one.antenna_id for one in known.antennas}
    assert len(names) == known.counts.factories_total + known.counts.antennas_total
    assert {member.name for member in members()} == names
    assert all((TREE / "overlays" / name / "kustomization.yaml").exists() for name in names)


def test_every_machine_of_a_factory_has_an_agent() -> None:
    for member in members():
        folder = TREE / "overlays" / member.name
        agents = {path.name for path in folder.glob("agent-*")}
        assert agents == {f"agent-{machine}" for machine in member.machines}


def _rights(user: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        (one["resource"].get("name", ""), operation)
        for one in user["spec"]["authorization"]["acls"]
        for operation in one["operations"]
        if one.get("type") != "deny"
    }


def test_a_service_may_write_what_it_says_and_read_what_it_hears_and_nothing_else() -> None:
    users = {one["metadata"]["name"]: one for one in broker.users()}
    for name in ("registry", "accounting", "scheduler", "datalab", "skills"):
        rights = _rights(users[name])
        said = {topic.name for topic in TOPICS if speaker(topic) == name}
        heard = {topic.name for topic in TOPICS if name in topic.consumers}
        dead = {topic.dead_name for topic in TOPICS if name in topic.consumers}
        assert {where for where, what in rights if what == "Write"} == said | dead
        assert {where for where, what in rights if what == "Read"} == heard | {f"{name}-"}
        assert {what for _, what in rights} == {"Read", "Write", "Describe"}


def test_what_a_service_subscribes_to_it_may_read_in_groups_of_its_own_name() -> None:
    rights = {one["metadata"]["name"]: _rights(one) for one in broker.users()}
    for workload in workloads():
        for hearing in workload.hears:
            assert hearing.group.startswith(f"{workload.name}-")
            if workload.name in rights:
                assert (hearing.topic, "Read") in rights[workload.name]


def test_only_the_gate_reads_what_the_mirrors_bring_and_writes_what_came_in() -> None:
    for user in broker.users():
        name = user["metadata"]["name"]
        rights = _rights(user)
        reads = {where for where, what in rights if what in ("Read", "All") and where.startswith("relay-")}
        writes = {
            where
            for where, what in rights
            if what in ("Write", "All") and where.startswith("aifn-in-") and not where.endswith("-dead")
        }
        assert bool(reads) == (name in ("fedgate", "mirror-in"))
        assert bool(writes) == (name == "fedgate")


def test_a_member_writes_only_under_its_own_name_at_a_relay_and_no_mirror_brings_its_own_back() -> None:
    for user in broker.relay_users(["bsc-aif", "jaif"]):
        name = user["metadata"]["name"]
        writes = {where for where, what in _rights(user) if what in ("Write", "Create", "All")}
        assert writes == {f"{name}."}
    denied = [one for one in broker.mirror_rights()["mirror-in"] if one.get("type") == "deny"]
    assert [one["resource"]["name"] for one in denied] == [f"{relay}.member." for relay in broker.RELAYS]


def test_an_outside_subscriber_reads_one_topic_within_a_bound() -> None:
    outsider = next(one for one in broker.users() if one["metadata"]["name"] == "outside-reader")
    assert {what for _, what in _rights(outsider)} == {"Read", "Describe"}
    assert {where for where, _ in _rights(outsider)} == {"aifn-usage-charged-v1", "outside-reader-"}
    assert outsider["spec"]["quotas"]["consumerByteRate"] > 0


def test_every_topic_of_the_catalogue_and_its_dead_letters_are_made_as_the_services_would_make_them() -> None:
    made = {one["metadata"]["name"]: one["spec"] for one in broker.topics()}
    for topic in TOPICS:
        assert made[topic.name]["partitions"] == topic.partitions
        assert (
            topic.settings().items() <= {key: str(value) for key, value in made[topic.name]["config"].items()}.items()
        )
        assert made[topic.dead_name]["partitions"] == 1
