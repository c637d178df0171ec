"""Where the services are and who I am: two files of the user's own, and the environment, which wins.

`context.json` is written by whoever starts a factory (`aifn up`), `token.json` by `aifn login`.
"""

import base64
import binascii
import json
import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from platformdirs import user_config_dir
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from aifn_client.errors import ClientError, Misuse, SignInNeeded, UnknownPlace

T = TypeVar("T", bound=BaseModel)
DEVELOPMENT_PERSONA = "pi"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_URL_PREFIX = "AIFN_URL_"


def config_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of both files: AIFN_CONFIG_HOME, else the user's configuration folder. It need not exist."""
    return Path(environment.get("AIFN_CONFIG_HOME") or user_config_dir("aifn")).expanduser()


class Context(BaseModel):
    """Where a factory answers.

    Launchers save one: `Context(factory="lumi-aif", issuer=url, services={"scheduler": url}, clock=None).save()`,
    and take it back with `Context.forget()`.

    Args:
        factory: its id, for people to read.
        issuer: base URL of the identity provider whose tokens the services trust.
        services: base URL of each service's HTTP interface, by the service's name.
        clock: in words, when the factory's time is a simulated one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    factory: str | None = None
    issuer: str | None = None
    services: dict[str, str] = {}
    clock: str | None = None

    def save(self, folder: Path | None = None) -> Path:
        """Write context.json for this user's eyes only, in one step; returns its path."""
        return _write((folder or config_folder()) / "context.json", self.model_dump_json(indent=2))

    @classmethod
    def forget(cls, folder: Path | None = None) -> None:
        """Remove context.json, if there is one. A token is left: it counts again when its issuer is back."""
        ((folder or config_folder()) / "context.json").unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path | None = None, environment: Mapping[str, str] = os.environ) -> Self:
        """What was saved, with AIFN_URL_<SERVICE> and AIFN_ISSUER over it. Nothing saved is no error yet."""
        path = (folder or config_folder(environment)) / "context.json"
        saved = _read(cls, path) or cls()
        said = {
            name.removeprefix(_URL_PREFIX).lower().replace("_", "-"): value
            for name, value in environment.items()
            if name.startswith(_URL_PREFIX) and value
        }
        issuer = environment.get("AIFN_ISSUER") or saved.issuer
        return saved.model_copy(update={"services": {**saved.services, **said}, "issuer": issuer})

    def url(self, service: str) -> str:
        """Base URL of a service, without a slash at its end. Raises UnknownPlace, or Misuse for what is no URL."""
        place = self.services.get(service)
        if place is None:
            variable = _URL_PREFIX + service.upper().replace("-", "_")
            raise UnknownPlace(
                f"nobody has said where {service} is", advice=f"start a factory with `aifn up`, or set {variable}"
            )
        return _base(place, f"the address of {service}")

    @property
    def issuer_url(self) -> str:
        """Base URL of the issuer. Raises UnknownPlace, or Misuse for what is no URL."""
        if self.issuer is None:
            raise UnknownPlace("no issuer is known", advice="start a factory with `aifn up`, or set AIFN_ISSUER")
        return _base(self.issuer, "the issuer")


class Token(BaseModel):
    """A sign-in: who, where, until when, and the secret itself. `persona` is of the development issuer only."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    access_token: str
    subject: str
    issuer: str
    expires_at: AwareDatetime | None
    persona: str | None = None

    @classmethod
    def received(cls, access_token: str, *, issuer: str, seconds: int, persona: str, now: datetime) -> Self:
        """A token as an issuer has just given it, good for `seconds` from `now`."""
        subject = str(claims_of(access_token).get("sub", persona))
        until = now + timedelta(seconds=seconds)
        return cls(access_token=access_token, subject=subject, issuer=issuer, expires_at=until, persona=persona)

    def save(self, folder: Path | None = None) -> Path:
        """Write token.json for this user's eyes only, in one step; returns its path."""
        return _write((folder or config_folder()) / "token.json", self.model_dump_json(indent=2))

    @classmethod
    def forget(cls, folder: Path | None = None) -> bool:
        """Remove token.json; False if there was none."""
        path = (folder or config_folder()) / "token.json"
        known = path.exists()
        path.unlink(missing_ok=True)
        return known


def current_token(
    context: Context,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    now: datetime | None = None,
) -> Token:
    """The token to show to the services: AIFN_TOKEN, else the saved one.

    Raises: SignInNeeded, if there is none, it has ended, or it was given by another issuer than the context's: a
        token is only ever shown where it was meant to be.
    """
    moment = now or datetime.now(UTC)
    given = environment.get("AIFN_TOKEN")
    if given:
        token = _from_environment(given.strip())
        if token.expires_at is not None and token.expires_at <= moment:
            raise SignInNeeded("the token in AIFN_TOKEN has expired", advice="set AIFN_TOKEN to a fresh one")
        return token
    saved = _read(Token, (folder or config_folder(environment)) / "token.json")
    if saved is None:
        raise SignInNeeded("you are not signed in", advice=f"sign in: aifn login --as {DEVELOPMENT_PERSONA}")
    advice = sign_in_again(saved.persona)
    if saved.expires_at is not None and saved.expires_at <= moment:
        raise SignInNeeded("your sign-in has expired", advice=advice)
    if context.issuer is not None and saved.issuer.rstrip("/") != context.issuer.rstrip("/"):
        raise SignInNeeded(f"you are signed in at {saved.issuer}, not at {context.issuer}", advice=advice)
    return saved


def sign_in_again(persona: str | None = None) -> str:
    """The advice for a sign-in that no longer counts.

    >>> sign_in_again("operator")
    'sign in again: aifn login --as operator'
    """
    return f"sign in again: aifn login --as {persona or DEVELOPMENT_PERSONA}"


def claims_of(access_token: str) -> dict[str, Any]:
    """What a JWT says of itself, unproven: for showing only, the services judge. Empty for an opaque token."""
    parts = access_token.split(".")
    if len(parts) != 3:
        return {}
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine.

    >>> is_loopback("http://127.0.0.1:8099"), is_loopback("https://login.example.eu")
    (True, False)
    """
    return (urlsplit(url).hostname or "") in _LOOPBACK


def _from_environment(access_token: str) -> Token:
    claims = claims_of(access_token)
    until = claims.get("exp")
    return Token(
        access_token=access_token,
        subject=str(claims.get("sub", "unknown")),
        issuer=str(claims.get("iss", "unknown")),
        expires_at=datetime.fromtimestamp(until, UTC) if isinstance(until, int) else None,
    )


def _base(url: str, what: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Misuse(f"{what} is {url!r}, which is no address", advice="write it as http://host:port")
    return url.rstrip("/")


def _read(kind: type[T], path: Path) -> T | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise ClientError(f"{path} cannot be read: {fault.strerror}", advice="make it yours, or remove it") from None
    except ValidationError:
        raise ClientError(f"{path} is damaged", advice="remove it, then `aifn up` or `aifn login`") from None


def _write(path: Path, text: str) -> Path:
    """Replace a file as a whole; it is never readable by others, not even while it is written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mkstemp makes it 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text + "\n")
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as fault:
        advice = "choose another folder with AIFN_CONFIG_HOME"
        raise ClientError(f"{path} cannot be written: {fault.strerror}", advice=advice) from None
    return path
