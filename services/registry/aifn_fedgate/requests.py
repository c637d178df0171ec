"""How members recognise one another over HTTPS: a request signed by an online key, for one receiver and minute."""

import json
from datetime import datetime, timedelta

from aifn_common.errors import Unauthenticated
from pydantic_core import from_json

from aifn_fedgate.domain.directory import Trust
from aifn_fedgate.domain.envelope import ALGORITHM, Malformed, Verify, from_base64, to_base64
from aifn_fedgate.signing import SigningKey

TYPE = "aifn-request+jws"
LIFE = timedelta(seconds=60)
LEEWAY = timedelta(minutes=5)
MOST_CHARACTERS = 2_000


def write_token(key: SigningKey, member: str, receiver: str, now: datetime) -> str:
    """Say who asks whom, until when."""
    header = {"alg": ALGORITHM, "kid": key.kid, "typ": TYPE}
    claims = {"iss": member, "aud": receiver, "exp": int((now + LIFE).timestamp())}
    signed = ".".join(to_base64(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    return f"{signed}.{to_base64(key.sign(signed.encode()))}"


def read_token(token: str, receiver: str, trust: Trust, now: datetime, verify: Verify) -> str:
    """The member who asks. Raises Unauthenticated."""
    try:
        return _read(token, receiver, trust, now, verify)
    except (Malformed, ValueError, KeyError, TypeError, AttributeError):
        raise Unauthenticated("only members are answered: sign the request with an online key") from None


def _read(token: str, receiver: str, trust: Trust, now: datetime, verify: Verify) -> str:
    if len(token) > MOST_CHARACTERS:
        raise ValueError("too long")
    signed, _, signature = token.rpartition(".")
    first, _, second = signed.partition(".")
    header, claims = from_json(from_base64(first.encode())), from_json(from_base64(second.encode()))
    if header["alg"] != ALGORITHM or header["typ"] != TYPE:
        raise ValueError("wrong kind of token")
    owner, member, key, public = trust.by_kid[header["kid"]]
    ends = datetime.fromtimestamp(int(claims["exp"]), now.tzinfo)
    if claims["iss"] != owner or claims["aud"] != receiver or member.left or key.closed is not None:
        raise ValueError("not of this member, or not for this one")
    if not now - LEEWAY <= ends <= now + LIFE + LEEWAY:
        raise ValueError("over, or valid for too long")
    if not verify(public, from_base64(signature.encode()), signed.encode()):
        raise ValueError("wrong signature")
    return owner
