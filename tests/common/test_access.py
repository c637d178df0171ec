"""Who may do what: the roles' data is sound, and each reach opens exactly what it names."""

import itertools
import tomllib

import pytest
from aifn_common.access import REACHES, Grant, Who, all_permissions, grants_of, roles
from aifn_common.errors import Forbidden
from aifn_local.issuer import personas
from hypothesis import given
from hypothesis import strategies as st

SUBJECT, PROJECT, FACTORY, CALL = "mari", "p-1", "lumi-aif", "aif-playground"


def grant_for(role: str, reach: str) -> Grant:
    """The grant by which a role unfolds one of its reaches."""
    kinds = {
        "any": ("own", ""),
        "own": ("own", ""),
        "project": ("project", PROJECT),
        "factory": ("factory", FACTORY),
        "call": ("call", CALL),
    }
    return Grant(role, *kinds.get(reach, ("federation", "*")))


PLACED = ("project", "factory", "call", "federation")
OWNERS = {
    "any": {},
    "own": {"subject": SUBJECT},
    "project": {"project": PROJECT},
    "factory": {"factory": FACTORY},
    "call": {"call": CALL},
    "federation": {},
}
FOREIGN = {
    "own": [{}, {"subject": "somebody"}, {"project": PROJECT, "factory": FACTORY, "call": CALL}],
    "project": [{}, {"project": "p-2"}, {"project": FACTORY}, {"factory": PROJECT}, {"subject": SUBJECT}],
    "factory": [{}, {"factory": "other"}, {"factory": PROJECT}, {"project": FACTORY}, {"subject": SUBJECT}],
    "call": [{}, {"call": "other"}, {"call": FACTORY}, {"factory": CALL}, {"project": CALL}, {"subject": SUBJECT}],
}
CELLS = [(role, reach) for role, reaches in roles().items() for reach in reaches]


def test_every_reach_and_permission_of_the_data_is_one_we_know() -> None:
    assert {reach for _, reach in CELLS} <= set(REACHES)
    assert all("." in permission for permission in all_permissions())


@pytest.mark.parametrize(("role", "reach"), CELLS)
def test_a_role_opens_what_its_reach_names_and_nothing_beside_it(role: str, reach: str) -> None:
    grant = grant_for(role, reach)
    mine = roles()[role]
    wider = frozenset().union(*(mine.get(other, frozenset()) for other in ("any", "own") if other != reach))
    for permission in all_permissions():
        who = Who(SUBJECT, frozenset([grant]))
        allowed = permission in mine[reach] or permission in mine.get("any", ())
        if reach == "own" or permission not in mine.get("own", ()):
            assert who.may(permission, **OWNERS[reach]) is allowed, permission
        for owners in FOREIGN.get(reach, []):
            if permission in wider:
                continue
            assert who.may(permission, **owners) is (permission in mine.get("any", ())), (permission, owners)


@pytest.mark.parametrize("role", roles())
def test_a_role_without_a_place_gives_nothing_that_belongs_to_a_place(role: str) -> None:
    who = Who(SUBJECT, grants_of([role]))
    reaches = roles()[role]
    placed = frozenset().union(*(reaches.get(reach, frozenset()) for reach in PLACED))
    for permission in placed - reaches.get("own", frozenset()) - reaches.get("any", frozenset()):
        with pytest.raises(Forbidden):
            who.must(permission, project=PROJECT, factory=FACTORY, call=CALL, subject="other")
        with pytest.raises(Forbidden):
            who.scope(permission)


def test_a_list_shows_what_the_grants_reach() -> None:
    who = Who("mari", grants_of(["member:project:p-1", "member:project:p-2", "operator:factory:lumi-aif"]))
    scope = who.scope("job.read")
    assert (scope.everything, scope.projects, scope.factories) == (
        False,
        frozenset({"p-1", "p-2"}),
        frozenset({"lumi-aif"}),
    )
    chair = Who("aino", grants_of(["call-manager:call:aif-playground", "call-manager:factory:lumi-aif", "applicant"]))
    seen = chair.scope("application.read")
    assert (seen.everything, seen.factories, seen.calls, seen.subject) == (
        False,
        frozenset(),
        frozenset({"aif-playground"}),
        "aino",
    )
    assert Who("a", grants_of(["auditor:federation:*"])).scope("job.read").everything
    assert Who("mari", grants_of(["applicant"])).scope("application.read").subject == "mari"
    assert Who("mari", grants_of(["applicant"])).scope("machine.read").everything


def test_a_person_without_roles_may_nothing() -> None:
    nobody = Who("nobody", frozenset())
    for permission in all_permissions():
        with pytest.raises(Forbidden):
            nobody.must(permission, project=PROJECT, factory=FACTORY, call=CALL, subject="nobody")
        with pytest.raises(Forbidden):
            nobody.scope(permission)


def test_a_permission_that_no_role_gives_is_a_fault_of_ours() -> None:
    with pytest.raises(ValueError, match="misspelling"):
        Who("a", frozenset()).may("machine.raed")
    with pytest.raises(ValueError, match="misspelling"):
        Who("a", frozenset()).scope("machine.raed")


def test_an_asked_question_is_remembered_even_when_the_answer_is_no() -> None:
    for ask in (Who.must, Who.scope):
        who = Who("a", frozenset())
        assert not who.checked
        with pytest.raises(Forbidden):
            ask(who, "job.read")
        assert who.checked


def test_a_reach_that_the_data_misspells_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tomllib, "loads", lambda _: {"cook": {"kitchen": ["soup.stir"]}})
    with pytest.raises(ValueError, match="kitchen"):
        roles.__wrapped__()


@pytest.mark.parametrize("persona", personas().values(), ids=personas())
def test_every_entitlement_of_the_development_issuer_is_a_role_we_know(persona: object) -> None:
    entitlements = persona.entitlements  # type: ignore[attr-defined]
    assert len(grants_of(entitlements)) == len(entitlements), entitlements


@pytest.mark.parametrize(
    "word",
    [
        "",
        ":",
        "::",
        "pi:",
        "pi:project",
        "pi:project:",
        "pi:planet:x",
        "call-manager:call",
        "call-manager:call:",
        "PI:project:x",
        " pi",
        "pi\0",
        "baker:factory:x",
    ],
)
def test_words_that_are_no_entitlement_of_ours_give_nothing(word: str) -> None:
    assert not {grant for grant in grants_of([word]) if grant.kind != "own"}
    assert not Who("a", grants_of([word])).may("job.submit", project="x")


words = st.text(max_size=12) | st.builds(
    ":".join,
    st.tuples(st.sampled_from(sorted(roles())), st.sampled_from(PLACED), st.text(max_size=5)),
)
owners = st.none() | st.text(max_size=3)


@given(st.lists(words, max_size=6), st.sampled_from(sorted(all_permissions())), owners, owners, owners, owners)
def test_more_entitlements_never_take_a_permission_away(
    given_words: list[str],
    permission: str,
    project: str | None,
    factory: str | None,
    call: str | None,
    subject: str | None,
) -> None:
    def may(some: list[str]) -> bool:
        who = Who("me", grants_of(some))
        return who.may(permission, project=project, factory=factory, call=call, subject=subject)

    singly = [may([word]) for word in given_words]
    assert may(given_words) is any(singly)


@given(st.lists(words, max_size=6), st.sampled_from(sorted(all_permissions())))
def test_a_list_is_open_exactly_if_some_single_thing_is(given_words: list[str], permission: str) -> None:
    who = Who("me", grants_of(given_words))
    projects = {grant.of for grant in who.grants if grant.kind == "project"} | {None}
    factories = {grant.of for grant in who.grants if grant.kind == "factory"} | {None}
    calls = {grant.of for grant in who.grants if grant.kind == "call"} | {None}
    some = any(
        who.may(permission, project=project, factory=factory, call=call, subject="me")
        for project, factory, call in itertools.product(projects, factories, calls)
    )
    try:
        who.scope(permission)
    except Forbidden:
        assert not some
    else:
        assert some
