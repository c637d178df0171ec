"""A POST with an Idempotency-Key happens once; asking again gives the first answer.

Source: draft-ietf-httpapi-idempotency-key-header. The row is written in the transaction of the effect.
"""

from dataclasses import dataclass

from aifn_common.database import Database, Transaction
from aifn_common.errors import Invalid, Refusal

_BEGIN = "INSERT INTO idempotency (subject, key, request) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
_KNOWN = "SELECT request, status, headers, body FROM idempotency WHERE subject = $1 AND key = $2"
_KEEP = "UPDATE idempotency SET status = $3, headers = $4, body = $5 WHERE subject = $1 AND key = $2"
_FORGET = "DELETE FROM idempotency WHERE created_at < now() - make_interval(days => 7)"


class KeyReused(Refusal):
    """The key was used for another request before."""

    code = "idempotency_key_reused"
    status = 422


@dataclass(frozen=True)
class Answer:
    """An answer that was given before."""

    status: int
    headers: dict[str, str]
    body: bytes


async def begin(tx: Transaction, subject: str, key: str, request: str) -> Answer | None:
    """Note that a request is being carried out, or return the answer it was given before.

    A second request with the same key waits here until the first is committed or rolled back.
    Raises Invalid for a key of a wrong length, KeyReused if the key belongs to a request with other words.
    """
    if not 1 <= len(key) <= 255:
        raise Invalid("an Idempotency-Key has 1 to 255 characters")
    if await tx.execute(_BEGIN, subject, key, request) == "INSERT 0 1":
        return None
    row = await tx.fetchrow(_KNOWN, subject, key)
    if row is None or row["request"] != request:
        raise KeyReused("this Idempotency-Key was used for another request: take a new one")
    return Answer(row["status"], row["headers"], row["body"])


async def keep(tx: Transaction, subject: str, key: str, status: int, headers: dict[str, str], body: bytes) -> None:
    """Keep the answer for whoever asks again."""
    await tx.execute(_KEEP, subject, key, status, headers, body)


async def forget_old(db: Database) -> None:
    """Drop answers nobody will ask for again."""
    await db.execute(_FORGET)
