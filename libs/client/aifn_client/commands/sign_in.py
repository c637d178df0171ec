"""`aifn login`, `logout` and `whoami`."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from aifn_client import text
from aifn_client.context import DEVELOPMENT_PERSONA, Context, Token, claims_of, current_token, is_loopback
from aifn_client.errors import ClientError
from aifn_client.models import View
from aifn_client.screen import AsJson, asking, print_line, saying_errors, show_one


class Person(View):
    """Who a token says I am."""

    subject: str
    name: str | None = None
    persona: str | None = None
    entitlements: tuple[str, ...] = ()
    issuer: str
    expires_at: datetime | None = None
    factory: str | None = None
    clock: str | None = None


def login(
    context: typer.Context,
    persona: Annotated[
        str, typer.Option("--as", metavar="PERSONA", help="Who to be: pi, operator, factory-admin, ...")
    ] = DEVELOPMENT_PERSONA,
    subject: Annotated[str | None, typer.Option(help="Under another name, with the same roles.")] = None,
) -> None:
    """Sign in at the development issuer for an hour."""
    with asking(context) as aifn:
        issuer = aifn.context.issuer_url
        if not is_loopback(issuer):
            advice = "get a token there, and set AIFN_TOKEN to it"
            raise ClientError(f"{issuer} is no development issuer", advice=advice)
        began = datetime.now(UTC)
        access_token, seconds = aifn.sign_in(persona, subject)
        token = Token.received(access_token, issuer=issuer, seconds=seconds, persona=persona, now=began)
        token.save()
        print_line(f"signed in as {token.subject} ({persona}) until {text.moment(token.expires_at)}")


def logout(context: typer.Context) -> None:
    """Forget the saved token."""
    with saying_errors(context):
        print_line("signed out" if Token.forget() else "you were not signed in")


def whoami(context: typer.Context, as_json: AsJson = False) -> None:
    """Who you are to the services, with which roles, and until when."""
    with saying_errors(context):
        place = Context.load()
        token = current_token(place)
        claims = claims_of(token.access_token)
        roles = claims.get("entitlements")
        one = Person.of(
            {
                "subject": token.subject,
                "name": claims.get("name"),
                "persona": token.persona,
                "entitlements": roles if isinstance(roles, list) else [],
                "issuer": token.issuer,
                "expires_at": token.expires_at and token.expires_at.isoformat(),
                "factory": place.factory,
                "clock": place.clock,
            }
        )
        rows = (
            ("subject", one.subject),
            ("name", one.name),
            ("roles", text.lines(one.entitlements) if one.entitlements else "none beyond your projects"),
            ("signed in at", one.issuer),
            ("until", one.expires_at or "the token does not say"),
            ("factory", one.factory),
            ("its clock", one.clock),
        )
        show_one(one, rows, as_json=as_json)
