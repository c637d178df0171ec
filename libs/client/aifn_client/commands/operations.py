"""`aifn deadletter`: messages a service set aside, and sending them again."""

from typing import Annotated

import typer

from aifn_client.http import path
from aifn_client.models import DeadLetter, Replayed
from aifn_client.screen import ROWS, All, AsJson, Column, Limit, asking, bound, print_line, put_json, show_list

dead_letters = typer.Typer(
    name="deadletter", help="Messages a service could not use, and their replay.", no_args_is_help=True
)

Service = Annotated[str, typer.Option(help="Whose: accounting, scheduler, ...")]

_LETTERS = (
    Column[DeadLetter]("no.", lambda one: one.id, right=True),
    Column[DeadLetter]("topic", lambda one: one.topic),
    Column[DeadLetter]("code", lambda one: one.code),
    Column[DeadLetter]("reason", lambda one: one.reason),
    Column[DeadLetter]("set aside", lambda one: one.set_aside_at, wide=True),
    Column[DeadLetter]("replayed", lambda one: one.replayed_at),
)


@dead_letters.command("list")
def list_dead_letters(
    context: typer.Context,
    service: Service,
    topic: Annotated[str | None, typer.Option(help="Only from this topic.")] = None,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Messages that a service set aside, oldest first."""
    with asking(context) as aifn:
        found = aifn.many(DeadLetter, service, "/v1/dead-letters", at_most=bound(limit, everything), topic=topic)
        show_list(found, _LETTERS, as_json=as_json, limit=limit, everything=everything, nothing="nothing was set aside")


@dead_letters.command("replay")
def replay_dead_letter(
    context: typer.Context,
    number: Annotated[int, typer.Argument(min=1, help="See `aifn deadletter list`.")],
    service: Service,
    as_json: AsJson = False,
) -> None:
    """Send a message again, once what was wrong has been put right."""
    with asking(context) as aifn:
        answer = Replayed.of(aifn.post(service, path("/v1/dead-letters/{}/replay", str(number))))
        if as_json:
            put_json(answer.raw)
        else:
            print_line(f"message {number} was sent again to {answer.topic}")
