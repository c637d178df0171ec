"""What accounting may be told beside what every service is told."""

from aifn_common.settings import ServiceSettings
from pydantic import Field, SecretStr


class AccountingSettings(ServiceSettings):
    """Settings of accounting. Each is an environment variable `AIFN_<NAME>`."""

    pseudonym_key: SecretStr = Field(
        min_length=16,
        description="secret from which people's pseudonyms in charges are made; a new one gives everybody a new name",
        examples=["a-long-random-secret"],
    )
