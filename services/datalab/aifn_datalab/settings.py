"""What may be configured of the Data Lab, read once, in app.py."""

from aifn_common.settings import ServiceSettings


class DatalabSettings(ServiceSettings):
    """Nothing of its own yet: which factory's Data Lab this is, is a setting all services share."""
