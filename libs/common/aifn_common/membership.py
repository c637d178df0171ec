"""Who belongs to which project, as every service keeps it: accounting writes the truth, the others follow."""

from aifn_events.access import ProjectDescribed

from aifn_common.access import Grant
from aifn_common.database import Transaction

_PROJECT = """
INSERT INTO member_project (project_id, revision, title, factory_id, closed) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (project_id) DO UPDATE
SET revision = EXCLUDED.revision, title = EXCLUDED.title, factory_id = EXCLUDED.factory_id, closed = EXCLUDED.closed
WHERE member_project.revision < EXCLUDED.revision"""
_LEAVE = "DELETE FROM membership WHERE project_id = $1"
_JOIN = "INSERT INTO membership (project_id, subject, role) SELECT $1, * FROM unnest($2::text[], $3::text[])"
_PROJECTS = "SELECT project_id, role FROM membership WHERE subject = $1"


async def remember_project(tx: Transaction, event: ProjectDescribed) -> None:
    """Keep the list of members if it is newer than the one known; an older one changes nothing."""
    done = await tx.execute(_PROJECT, event.project_id, event.revision, event.title, event.factory_id, event.closed)
    if done == "INSERT 0 0":
        return
    await tx.execute(_LEAVE, event.project_id)
    subjects = [member.subject for member in event.members]
    await tx.execute(_JOIN, event.project_id, subjects, [member.role for member in event.members])


async def projects_of(tx: Transaction, subject: str) -> frozenset[Grant]:
    """The person's roles in projects."""
    return frozenset(Grant(row["role"], "project", row["project_id"]) for row in await tx.fetch(_PROJECTS, subject))
