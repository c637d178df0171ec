"""Publish calls, decide applications, grant awards."""

import json
from importlib.resources import files
from typing import Any

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.outbox import announce
from aifn_events.access import ApplicationDecided, AwardGranted, AwardLine, AwardScope, CallPublished, RuleFinding
from aifn_events.federation import PeerFact
from aifn_events.vocabulary import ApplicationId, Subject, short_id
from pydantic import TypeAdapter

from aifn_scheduler.domain import access as domain
from aifn_scheduler.domain.access import AlreadyAwarded, AnothersDecision, Application, Call, Finding, Line, NotEligible
from aifn_scheduler.policy_data import load_policies
from aifn_scheduler.settings import SchedulerSettings
from aifn_scheduler.store import access as store
from aifn_scheduler.store import handover as handovers
from aifn_scheduler.store import machines
from aifn_scheduler.store.access import Award, Filed

_AUTOMATIC = "the call's technical check is automatic, and every rule has passed"
_calls = TypeAdapter(tuple[Call, ...])


def seed_calls() -> tuple[Call, ...]:
    """The calls that come with the package. Raises ValueError, if one is of another policy version than its mode."""
    data: dict[str, Any] = json.loads(files("aifn_scheduler").joinpath("seed", "calls.json").read_text("utf-8"))
    calls = _calls.validate_python(data["calls"])
    for call in calls:
        if load_policies().mode(call.mode).policy_version != call.policy_version:
            raise ValueError(
                f"{call.call_id}: {call.mode} belongs to another policy version than {call.policy_version}"
            )
    return calls


async def load_seed(tx: Transaction, settings: SchedulerSettings) -> None:
    """Publish those of the package's calls that are this member's to decide; those that are there stay as they are."""
    for call in seed_calls():
        if call.is_decided_by(settings.member_kind):
            await store.add_call(tx, call)
    for call in await store.publish_calls(tx, clock.now()):
        await announce(
            tx,
            CallPublished(
                call_id=call.call_id,
                factory_id=settings.factory,
                mode=call.mode,
                policy_version=call.policy_version,
                pool=call.pool,
                deciding_authority=call.deciding_authority,
                opens_at=call.opens_at,
                closes_at=call.closes_at,
                partitions=None if call.partitions is None else list(call.partitions),
                single_machine=call.single_machine,
                inference_cap_pct=call.inference_cap_pct,
                call_source=call.source,
            ),
        )


async def submit_application(
    tx: Transaction,
    call_id: str,
    application: Application,
    *,
    contact: str | None,
    submitted_by: Subject,
    settings: SchedulerSettings,
) -> Filed:
    """Decide an application by the rules of its call and keep it with every finding; grant it if that is all.

    Raises: NotFound, if there is no such call; AnothersDecision, NoHost.
    """
    call = await store.get_call(tx, call_id)
    now = clock.now()
    partitions = await machines.get_partitions(tx)
    findings = domain.decide_eligibility(application, call, load_policies(), partitions, now)
    eligible = domain.eligible(findings)
    application_id = short_id("app")
    await store.add_application(
        tx,
        application_id,
        call_id,
        application,
        contact=contact,
        submitted_by=submitted_by,
        now=now,
        eligible=eligible,
        findings=findings,
    )
    await announce(
        tx,
        ApplicationDecided(
            application_id=application_id,
            mode=call.mode,
            policy_version=call.policy_version,
            eligible=eligible,
            findings=[_said(finding) for finding in findings],
            decided_at=now,
        ),
    )
    if eligible and call.technical_check == "automatic":
        filed = await store.get_application(tx, application_id)
        await _grant(tx, filed, call, by="urn:aifn:scheduler", reason=_AUTOMATIC, settings=settings)
    return await store.get_application(tx, application_id)


async def award_application(
    tx: Transaction, application_id: ApplicationId, *, by: Subject, reason: str, settings: SchedulerSettings
) -> Filed:
    """Grant an application after a person's technical check.

    Raises: NotFound, NotEligible, AlreadyAwarded, AnothersDecision, NoHost.
    """
    filed = await store.get_application(tx, application_id, lock=True)
    if filed.award is not None:
        raise AlreadyAwarded(application_id, filed.award.project_id)
    if not filed.eligible:
        raise NotEligible(application_id)
    call = await store.get_call(tx, filed.call_id)
    await _grant(tx, filed, call, by=by, reason=reason, settings=settings)
    return await store.get_application(tx, application_id)


async def hear_award(tx: Transaction, event: PeerFact, settings: SchedulerSettings) -> None:
    """An authority without machines has granted an award on this factory's: say so here as if it were our own.

    Raises: ForeignAward.
    """
    award = event.read(AwardGranted)
    domain.check_award(award, settings.factory, load_policies(), await machines.get_partitions(tx))
    await handovers.put_scopes(tx, award)
    await announce(tx, award.model_copy(update={"source": ""}))


async def _grant(
    tx: Transaction, filed: Filed, call: Call, *, by: str, reason: str, settings: SchedulerSettings
) -> None:
    kind = settings.member_kind
    if not call.is_decided_by(kind):
        raise AnothersDecision(call, kind)
    now = clock.now()
    application = filed.application
    partitions = await machines.get_partitions(tx)
    number = await store.next_project_number(tx)
    name = domain.project_name(number, now.year, settings.factory, kind)
    award = Award(short_id("award"), name, now, by, reason)
    country = load_policies().country(application.organisation.country)
    hosts: dict[str, list[Line]] = {}
    for line in domain.award_lines(application.asks, partitions):
        host = settings.factory if kind == "factory" else domain.host_of(partitions[line.partition_id])
        hosts.setdefault(host, []).append(line)
    await store.set_award(tx, filed.application_id, award)
    for host, lines in hosts.items():
        await announce(
            tx,
            AwardGranted(
                award_id=award.award_id,
                application_id=filed.application_id,
                project_id=award.project_id,
                project_title=application.title,
                factory_id=host,
                mode=call.mode,
                policy_version=call.policy_version,
                pool=call.pool,
                deciding_authority=call.deciding_authority,
                applicant_kind=application.organisation.kind,
                country=application.organisation.country if country is None else country.country_code,
                lines=[
                    AwardLine(
                        machine_id=line.machine_id,
                        partition_id=line.partition_id,
                        resource=line.resource,
                        amount=line.amount,
                    )
                    for line in lines
                ],
                elsewhere=[
                    AwardScope(
                        factory_id=other,
                        machine_id=line.machine_id,
                        partition_id=line.partition_id,
                        resource=line.resource,
                    )
                    for other, theirs in hosts.items()
                    for line in theirs
                    if other != host
                ],
                principal_investigator=filed.submitted_by,
                starts_at=now,
                ends_at=domain.after_months(now, application.months),
                inference_cap_pct=call.inference_cap_pct,
            ),
        )


def _said(finding: Finding) -> RuleFinding:
    return RuleFinding(rule=finding.rule, passed=finding.passed, because=finding.because, source=finding.source)
