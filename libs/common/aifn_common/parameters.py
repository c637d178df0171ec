"""What a route asks for by `Depends`, resolved once, when the route is made, and not walked through at each request.

FastAPI solves a tree of dependencies anew for each request; for a plain read that costs more than its database does.
Here the parameters of a dependency become the route's own, and the dependency is a call like any other.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import wraps
from typing import Annotated, Any, cast, get_args, get_origin

from fastapi import Request, Response, params
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel
from pydantic_core import PydanticUndefined, PydanticUndefinedType

Values = dict[str, Any]
Endpoint = Callable[..., Awaitable[Any]]
_NOT_OF_THE_REQUEST = (Request, Response)
"""FastAPI gives a function one of each, whatever the parameter is called."""
_CONSTANTS = (str, int, float, bool, type(None), PydanticUndefinedType)


class TwoMeanings(TypeError):
    """A route and what it depends on have a parameter of one name that is not the same."""


def flatten(endpoint: Endpoint) -> Endpoint:
    """The endpoint with the parameters of its dependencies beside its own: to callers and in OpenAPI the same.

    Dependencies that are no coroutine functions, or have dependencies themselves, stay for FastAPI. Raises TwoMeanings.
    """
    own = inspect.signature(endpoint, eval_str=True)
    asked = {name: call for name, one in own.parameters.items() if (call := _dependency(one)) is not None}
    if not asked:
        return endpoint
    wanted = {name: one for name, one in own.parameters.items() if name not in asked}
    passed_on = tuple(wanted)
    calls = tuple((name, call, _add(wanted, inspect.signature(call, eval_str=True))) for name, call in asked.items())

    @wraps(endpoint)
    async def answer(**values: Any) -> Any:
        given = {name: values[name] for name in passed_on}
        for name, call, names in calls:
            given[name] = await call(**{theirs: values[ours] for theirs, ours in names})
        return await endpoint(**given)

    by_name = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in wanted.values()]
    answer.__signature__ = own.replace(parameters=by_name)  # type: ignore[attr-defined]
    return answer


def asks_for(endpoint: Callable[..., Any], *wanted: Callable[..., Any]) -> bool:
    """Whether an endpoint, or something that it depends on, depends on one of these."""
    for one in inspect.signature(endpoint, eval_str=True).parameters.values():
        marks = get_args(one.annotation)[1:] if get_origin(one.annotation) is Annotated else ()
        for mark in (one.default, *marks):
            call = mark.dependency if isinstance(mark, params.Depends) else None
            if call is not None and (call in wanted or asks_for(call, *wanted)):
                return True
    return False


def _dependency(one: inspect.Parameter) -> Endpoint | None:
    """The function that gives a parameter its value, if it is one that may simply be called."""
    if get_origin(one.annotation) is not Annotated:
        return None
    found = [mark for mark in get_args(one.annotation)[1:] if isinstance(mark, params.Depends)]
    call = found[0].dependency if len(found) == 1 and type(found[0]) is params.Depends else None
    if call is None or not inspect.iscoroutinefunction(call):
        return None
    asks = inspect.signature(call, eval_str=True).parameters.values()
    return None if any(_asks_for_more(each) for each in asks) else call


def _asks_for_more(one: inspect.Parameter) -> bool:
    marks = (one.default, *get_args(one.annotation)[1:]) if get_origin(one.annotation) is Annotated else (one.default,)
    return any(isinstance(mark, params.Depends) for mark in marks)


def _add(wanted: dict[str, inspect.Parameter], more: inspect.Signature) -> tuple[tuple[str, str], ...]:
    """Add the parameters of a dependency; returns which name of the dependency is which name of ours."""
    names = []
    for name, one in more.parameters.items():
        ours = _name_of(wanted, one)
        known = wanted.setdefault(ours, one)
        if known.annotation != one.annotation or known.default != one.default:
            raise TwoMeanings(f"{ours} is {known} here and {one} there")
        names.append((name, ours))
    return tuple(names)


def _name_of(wanted: dict[str, inspect.Parameter], one: inspect.Parameter) -> str:
    if one.annotation in _NOT_OF_THE_REQUEST:
        return next((name for name, known in wanted.items() if known.annotation is one.annotation), one.name)
    return one.name


def make_reader(dependant: Dependant) -> Callable[[Request], Values | None] | None:
    """A quick reader of a route's parameters; None for a route that asks for more than its path and its query.

    FastAPI asks of each parameter at each request what kind it is. The reader knows, and takes what is valid; it
    returns None where something is missing or wrong, and FastAPI then reads it all again and says what.
    """
    if dependant.dependencies or dependant.header_params or dependant.cookie_params or dependant.body_params:
        return None
    if not all(_is_plain(one) for one in (*dependant.path_params, *dependant.query_params)):
        return None
    of_path = [(one.name, one.alias, one.validate) for one in dependant.path_params]
    of_query = [(one.name, one.alias, one.validate, one.default) for one in dependant.query_params]

    def read(request: Request) -> Values | None:
        values: Values = {}
        for name, alias, validate in of_path:
            values[name], wrong = validate(request.path_params[alias])
            if wrong:
                return None
        query = request.query_params if request.scope["query_string"] else {}
        for name, alias, validate, default in of_query:
            if alias in query:
                values[name], wrong = validate(query[alias])
                if wrong:
                    return None
            elif default is PydanticUndefined:
                return None
            else:
                values[name] = default
        return values

    return read


def _is_plain(one: Any) -> bool:
    """One word of a path or a query, under one name; what it is if it is not said, is not changed by who gets it."""
    info = one.field_info
    kinds = (info.annotation, *get_args(info.annotation))
    is_model = any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)
    has_one_name = info.validation_alias in (None, info.alias)
    default_stays = info.default_factory is None and isinstance(one.default, _CONSTANTS) and not info.validate_default
    return has_one_name and default_stays and not is_model


def with_values(dependant: Dependant, of: Callable[[Request], Values]) -> Dependant:
    """The same route without parameters of its own: those are had from a request by `of`."""
    call = cast(Endpoint, dependant.call)
    said = dependant.request_param_name
    name = said or "request"

    async def answer(**given: Any) -> Any:
        request = given[name] if said else given.pop(name)
        return await call(**given, **of(request))

    return replace(dependant, path_params=[], query_params=[], call=answer, request_param_name=name)
