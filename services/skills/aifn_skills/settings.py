"""What may be configured of skills, read once, in app.py."""

from aifn_common.settings import ServiceSettings


class SkillsSettings(ServiceSettings):
    """Nothing of its own yet: which factory teaches here, is a setting all services share."""
