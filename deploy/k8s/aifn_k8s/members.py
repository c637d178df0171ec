"""The members of the network, from the registry's own first-day data: for whom an overlay is made."""

from dataclasses import dataclass

from aifn_registry import seed

DOMAIN = "aifn.example"
"""Reserved for documentation (RFC 2606): a site puts its own name into its `site`."""


@dataclass(frozen=True)
class Member:
    """A factory with its machines, or an antenna, which has none. `links` are the factories it works with."""

    name: str
    title: str
    machines: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def is_factory(self) -> bool:
        """Whether it runs machines, and so all services."""
        return bool(self.machines)

    @property
    def domain(self) -> str:
        """Under which its services answer."""
        return f"{self.name}.{DOMAIN}"


def members() -> tuple[Member, ...]:
    """All factories, then all antennas, in the order of the registry's table."""
    known = seed.load()
    factories = [
        Member(
            one.factory_id, one.name, machines=tuple(dict.fromkeys((one.primary_machine_id, *one.interim_machine_ids)))
        )
        for one in known.factories
    ]
    antennas = [
        Member(one.antenna_id, one.name or f"antenna of {one.country}", links=one.linked_factory_ids or ())
        for one in known.antennas
    ]
    return (*factories, *antennas)
