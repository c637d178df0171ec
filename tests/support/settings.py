"""Settings for tests: complete and harmless."""

from typing import Any, TypeVar

from aifn_common.settings import ServiceSettings

S = TypeVar("S", bound=ServiceSettings)


def settings(kind: type[S], **values: Any) -> S:
    """Settings of a service with what every service needs filled in; `values` add or replace."""
    common = {
        "factory": "lumi-aif",
        "database_url": "postgresql://nobody@127.0.0.1:1/none",
        "kafka": "127.0.0.1:1",
        "oidc_issuer": "http://issuer.test",
    }
    return kind.model_validate(common | values)
