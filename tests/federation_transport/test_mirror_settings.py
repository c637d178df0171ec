"""Settings of a mirror, made from the member list: what it would copy, and with which credential."""

import re
from pathlib import Path

from aifn_local.federation.members import Member
from aifn_local.federation.mirror import RelayAccess, as_properties, settings
from hypothesis import given
from hypothesis import strategies as st

BSC = Member("bsc-aif", "factory")
RELAYS = {
    alias: RelayAccess(alias, f"127.0.0.1:{port}", Path("/ca.pem"), Path("/push.pem"), Path("/pull.pem"))
    for alias, port in (("relay-a", 9001), ("relay-b", 9002))
}
MADE = settings(BSC, "127.0.0.1:9000", RELAYS)
names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,18}[a-z0-9]", fullmatch=True)


def test_it_pushes_to_every_relay_and_pulls_from_every_relay_and_copies_between_no_two() -> None:
    flows = {
        name.removesuffix(".enabled") for name, value in MADE.items() if name.endswith(".enabled") and "->" in name
    }
    assert flows == {"bsc-aif->relay-a", "bsc-aif->relay-b", "relay-a->bsc-aif", "relay-b->bsc-aif"}
    assert MADE["clusters"] == "bsc-aif,relay-a,relay-b"


def test_it_writes_with_one_credential_and_reads_with_another() -> None:
    assert MADE["relay-a.ssl.keystore.location"] == "/push.pem"
    for reader in ("cluster", "consumer", "admin"):
        assert MADE[f"relay-a->bsc-aif.source.{reader}.ssl.keystore.location"] == "/pull.pem"
    assert MADE["relay-a.security.protocol"] == "SSL"


def test_all_it_keeps_at_a_relay_begins_with_the_members_id() -> None:
    kept = [
        MADE[f"relay-a.{name}"]
        for name in ("group.id", *(f"{part}.storage.topic" for part in ("config", "offset", "status")))
    ]
    assert [name for name in kept if not name.startswith("bsc-aif.")] == []
    assert len(set(kept)) == 4


@given(
    names,
    names,
    st.sampled_from(["aifn-out-capacity-v1", "aifn-out-capacity-state-v1", "aifn-in-capacity-v1", "mirror-configs"]),
)
def test_it_pulls_the_facts_of_all_others_and_nothing_else(me: str, owner: str, topic: str) -> None:
    made = settings(Member(me, "factory"), "127.0.0.1:9000", RELAYS)
    pattern = re.compile(made[f"relay-a->{me}.topics"])
    wanted = owner != me and topic.startswith("aifn-out-")
    assert bool(pattern.fullmatch(f"{owner}.{topic}")) == wanted
    assert not pattern.fullmatch(f"relay-b.{owner}.{topic}"), "what came by a relay is not taken for a member's own"


@given(names, st.sampled_from(["aifn-job-placed-v1", "relay-a.x.aifn-out-capacity-v1", "aifn-in-usage-v1"]))
def test_it_pushes_nothing_that_came_from_elsewhere(me: str, topic: str) -> None:
    made = settings(Member(me, "factory"), "127.0.0.1:9000", RELAYS)
    assert not re.fullmatch(made[f"{me}->relay-a.topics"], topic)


def test_a_relay_that_does_not_answer_is_left_out_entirely() -> None:
    one = settings(BSC, "127.0.0.1:9000", {"relay-b": RELAYS["relay-b"]})
    assert not [line for line in as_properties(one).splitlines() if "relay-a" in line]
