"""What skills does: keep the catalogue, book seats, give advice. One transaction each."""

from dataclasses import replace

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.errors import Stale
from aifn_common.outbox import announce
from aifn_events.access import AwardGranted
from aifn_events.registry import MachineDescribed
from aifn_events.skills import CourseSuggested, SessionScheduled
from aifn_events.vocabulary import ProjectId, Subject, short_id

from aifn_skills import domain, seed, store
from aifn_skills.domain import Advice, Award, Course, Line, Seat, Session, Suggestion
from aifn_skills.settings import SkillsSettings


async def load_seed(tx: Transaction, settings: SkillsSettings) -> None:
    """Put the starter catalogue into the database; what is there already stays as people have changed it.

    Sessions are planned once, from the day on which the catalogue is first loaded.
    """
    first_time = not await store.list_rules(tx)
    for course in seed.courses():
        if not await store.levels_of(tx, [course.id]):
            await store.add_course(tx, course)
    if first_time:
        for session in seed.sessions(settings.factory, clock.now()):
            await store.add_session(tx, session)
            await announce(tx, _scheduled(session))
    await store.keep_rules(tx, seed.rules())


async def add_course(tx: Transaction, course: Course) -> Course:
    """Add a course to the catalogue. Raises CourseExists, PrerequisiteWrong."""
    domain.check_prerequisites(course, await store.levels_of(tx, course.prerequisites))
    await store.add_course(tx, course)
    return course


async def revise_course(tx: Transaction, before: Course, words: Course) -> Course:
    """Replace the words of a course whose row is locked. Raises PrerequisiteWrong."""
    domain.check_prerequisites(words, await store.levels_of(tx, words.prerequisites))
    after = replace(words, id=before.id, factory_id=before.factory_id, revision=before.revision + 1)
    await store.replace_course(tx, after)
    return after


async def schedule_session(tx: Transaction, session: Session) -> Session:
    """Plan a session of a course. Raises SessionTimesWrong, SessionExists."""
    domain.check_times(session, clock.now())
    await store.add_session(tx, session)
    await announce(tx, _scheduled(session))
    return session


async def book_seat(tx: Transaction, session_id: str, subject: Subject) -> Seat:
    """Book a seat for a person. Raises SessionUnknown, SessionPast, SeatTaken, SoldOut."""
    now = clock.now()
    before = await store.get_session(tx, session_id, lock=True)
    after = domain.book(before, has_seat=await store.has_seat(tx, session_id, subject), now=now)
    seat = Seat(session=after, subject=subject, booked_at=now)
    await store.add_seat(tx, seat)
    await announce(tx, _scheduled(after))
    return seat


async def give_up_seat(tx: Transaction, session_id: str, subject: Subject) -> Session:
    """Give a person's seat back. Raises SessionUnknown, SeatUnknown, SessionPast."""
    before = await store.get_session(tx, session_id, lock=True)
    after = domain.give_up(before, has_seat=await store.has_seat(tx, session_id, subject), now=clock.now())
    await store.drop_seat(tx, after, subject)
    await announce(tx, _scheduled(after))
    return after


async def remember_award(tx: Transaction, event: AwardGranted) -> None:
    """Keep an award, and suggest what the rules find in it as far as its machines are known."""
    await store.hold_machines(tx)
    await store.hold_project(tx, event.project_id)
    await store.add_award(
        tx,
        Award(
            id=event.award_id,
            project_id=event.project_id,
            factory_id=event.factory_id,
            mode=event.mode,
            lines=tuple({Line(line.machine_id, line.partition_id) for line in event.lines}),
            granted_at=event.time,
            cause_topic=event.topic,
            cause_id=event.id,
            cause_source=event.source,
        ),
    )
    await _advise(tx, event.project_id)


async def remember_machine(tx: Transaction, event: MachineDescribed) -> None:
    """Keep who made a machine's GPUs, and advise the projects whose awards waited for it. Raises Stale."""
    await store.hold_machines(tx, to_change=True)
    known = await store.machine_revision(tx, event.machine_id)
    if known is not None and event.revision < known:
        raise Stale(f"machine {event.machine_id} is known in revision {known}, this is {event.revision}")
    vendors = {partition.partition_id: partition.gpu_vendor for partition in event.partitions}
    await store.keep_machine(tx, event.machine_id, event.revision, vendors)
    for project_id in await store.projects_on(tx, event.machine_id):
        await store.hold_project(tx, project_id)
        await _advise(tx, project_id)


async def _advise(tx: Transaction, project_id: ProjectId) -> None:
    awards = await store.awards_of(tx, project_id)
    vendors = await store.vendors_of(tx, {line.machine_id for award in awards for line in award.lines})
    given = await store.rules_given(tx, project_id)
    for advice in domain.advise(await store.list_rules(tx), awards, vendors, given=given):
        await _suggest(tx, advice)


async def _suggest(tx: Transaction, advice: Advice) -> None:
    rule, award = advice.rule, advice.award
    course = await store.get_course(tx, rule.course_id)
    suggestion = Suggestion(
        id=short_id("sug"),
        project_id=award.project_id,
        factory_id=award.factory_id,
        course_id=course.id,
        course_title=course.title,
        rule=rule.id,
        because=rule.because,
        cause_topic=award.cause_topic,
        cause_id=award.cause_id,
        cause_source=award.cause_source,
        award_id=award.id,
        suggested_at=clock.now(),
    )
    if await store.add_suggestion(tx, suggestion):
        await announce(tx, _suggested(suggestion))


def _suggested(suggestion: Suggestion) -> CourseSuggested:
    return CourseSuggested(
        suggestion_id=suggestion.id,
        project_id=suggestion.project_id,
        course_id=suggestion.course_id,
        rule=suggestion.rule,
        because=suggestion.because,
        cause_topic=suggestion.cause_topic,
        cause_id=suggestion.cause_id,
        cause_source=suggestion.cause_source,
    )


def _scheduled(session: Session) -> SessionScheduled:
    return SessionScheduled(
        session_id=session.id,
        course_id=session.course_id,
        factory_id=session.factory_id,
        title=session.title,
        starts_at=session.starts_at,
        seats=session.seats,
        seats_free=session.free,
    )
