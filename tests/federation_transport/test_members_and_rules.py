"""Names of members, and who may do what at a relay: all of it computed, nothing started."""

import pytest
from aifn_local.errors import StackError
from aifn_local.federation.members import Member, check_names, name_relays, read_members
from aifn_local.federation.rules import Operation, Resource, may, rules
from hypothesis import given
from hypothesis import strategies as st

names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,18}[a-z0-9]", fullmatch=True)
lists = st.lists(names, min_size=2, max_size=6, unique=True).map(
    lambda ids: tuple(Member(name, "factory") for name in ids)
)


def test_a_list_of_members_says_each_ones_kind() -> None:
    read = read_members("ju, lumi-aif,antenna-ie:antenna,ai-office:fund-holder")
    assert [(member.id, member.kind) for member in read] == [
        ("ju", "ju"),
        ("lumi-aif", "factory"),
        ("antenna-ie", "antenna"),
        ("ai-office", "fund-holder"),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("lumi-aif", "two members or more"),
        ("", "no name for a member"),
        ("lumi-aif,", "no name for a member"),
        ("lumi.aif,bsc-aif", "no name for a member"),
        ("LUMI,bsc-aif", "no name for a member"),
        ("-a,bsc-aif", "no name for a member"),
        (f"{'x' * 21},bsc-aif", "no name for a member"),
        ("a1:castle,bsc-aif", "no kind of member"),
        ("bsc-aif,lumi-aif,bsc-aif", "bsc-aif is named twice"),
    ],
)
def test_a_list_that_names_no_federation_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(StackError, match=reason):
        read_members(text)


def test_a_member_called_like_a_relay_is_refused() -> None:
    with pytest.raises(StackError, match="relay-b is the name of a relay"):
        check_names(read_members("relay-b,bsc-aif"), name_relays(2))


@pytest.mark.parametrize("count", [0, 5])
def test_a_number_of_relays_nobody_needs_is_refused(count: int) -> None:
    with pytest.raises(StackError, match="one to 4 relays"):
        name_relays(count)


@given(lists, st.data())
def test_a_member_may_write_below_its_own_prefix_and_nowhere_else(
    members: tuple[Member, ...], data: st.DataObject
) -> None:
    thief = data.draw(st.sampled_from(members))
    target = data.draw(st.sampled_from([f"{member.id}.aifn-out-x-v1" for member in members]) | st.text(max_size=40))
    allowed = may(rules(members), thief.pushes_as, Operation.WRITE, target)
    assert allowed == target.startswith(f"{thief.id}.")
    assert not may(rules(members), thief.pulls_as, Operation.WRITE, target)


@given(lists)
def test_everyone_reads_the_facts_of_all_others_and_not_its_own(members: tuple[Member, ...]) -> None:
    every = rules(members)
    for reader in members:
        for owner in members:
            can = may(every, reader.pulls_as, Operation.READ, f"{owner.id}.aifn-out-capacity-v1")
            assert can == (reader != owner)
            assert not may(every, reader.pulls_as, Operation.READ, f"{owner.id}.mirror-configs")


@given(lists)
def test_no_rule_reaches_beyond_one_members_prefix(members: tuple[Member, ...]) -> None:
    for rule in rules(members):
        owners = [member for member in members if rule.prefix.startswith(f"{member.id}.")]
        assert len(owners) == 1
        if rule.operation in (Operation.WRITE, Operation.CREATE) or rule.resource == Resource.GROUP:
            assert rule.principal == owners[0].pushes_as


@given(lists, names)
def test_a_member_that_leaves_takes_all_its_rules_along(members: tuple[Member, ...], name: str) -> None:
    leaver = Member(name, "factory")
    if leaver in members:
        return
    after = rules(members)
    assert rules((*members, leaver)) >= after
    assert not [rule for rule in after if rule.principal in (leaver.pushes_as, leaver.pulls_as)]
