"""Other members over HTTPS: pages of their logs and states, heads and the directory. Nothing of it is believed here."""

import logging
from dataclasses import dataclass
from typing import Any

import httpx

from aifn_fedgate.door import Door
from aifn_fedgate.requests import write_token

log = logging.getLogger(__name__)
PAGE = 1_000
MOST_BYTES = 8_000_000


class Pruned(Exception):
    """The one asked holds no unbroken log from that place on."""


class NoAnswer(Exception):
    """Nobody who was asked gave a page."""


@dataclass
class Members:
    """Asks other members as this one."""

    door: Door
    http: httpx.AsyncClient

    async def journal(self, asked: str, origin: str, stream: str, *, epoch: int, after: int) -> list[bytes]:
        """Envelopes in order. Raises Pruned, NoAnswer."""
        params = {"epoch": epoch, "after": after, "limit": PAGE}
        answer = await self._get(asked, f"/fed/v1/streams/{origin}/{stream}", params)
        return _envelopes(answer)

    async def state(self, asked: str, origin: str, stream: str, *, after: str) -> tuple[list[bytes], str | None]:
        """The newest envelope of each key, and where the next page begins. Raises NoAnswer."""
        params: dict[str, str | int] = {"limit": PAGE} | ({"after": after} if after else {})
        answer = await self._get(asked, f"/fed/v1/streams/{origin}/{stream}/state", params)
        following = answer.get("next")
        return _envelopes(answer), following if isinstance(following, str) else None

    async def head(self, asked: str, origin: str) -> bytes | None:
        """The newest head that one member has of another. Raises NoAnswer."""
        answer = await self._get(asked, "/fed/v1/heads", {"member": origin})
        found = answer.get("envelope")
        return found.encode() if isinstance(found, str) else None

    async def directory(self, asked: str) -> tuple[list[str], str]:
        """The roots and the newest directory that a member has. Raises NoAnswer."""
        answer = await self._get(asked, "/fed/v1/directory", {})
        roots, text = answer.get("roots"), answer.get("directory")
        if not isinstance(roots, list) or not isinstance(text, str):
            raise NoAnswer(f"{asked} gave no directory")
        return [str(one) for one in roots], text

    async def _get(self, asked: str, path: str, params: dict[str, Any]) -> dict[str, Any]:
        fault = "it has no endpoint"
        for endpoint in self.door.endpoints(asked):
            token = write_token(self.door.keys.signing, self.door.me, asked, self.door.now())
            try:
                answer = await self.http.get(
                    endpoint.rstrip("/") + path, params=params, headers={"authorization": f"Bearer {token}"}
                )
                if answer.status_code == httpx.codes.GONE:
                    raise Pruned(f"{asked} holds no unbroken log there")
                answer.raise_for_status()
                if len(answer.content) > MOST_BYTES:
                    raise NoAnswer(f"{asked} answered {len(answer.content)} bytes")
                found = answer.json()
            except (httpx.HTTPError, ValueError) as wrong:
                fault = repr(wrong)
                continue
            if isinstance(found, dict):
                return found
        raise NoAnswer(f"{asked} does not answer {path}: {fault}")


def _envelopes(answer: dict[str, Any]) -> list[bytes]:
    found = answer.get("envelopes")
    if not isinstance(found, list) or len(found) > PAGE:
        raise NoAnswer("a page without envelopes")
    return [one.encode() for one in found if isinstance(one, str) and one.isascii()]
