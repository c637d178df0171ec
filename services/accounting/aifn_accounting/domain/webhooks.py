"""Rules for addresses outside: which may be called, how often a failed call is tried again, whose secret is whose."""

import hashlib
import hmac
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from aifn_common.errors import Invalid

Address = IPv4Address | IPv6Address

FIRST_PAUSE_SECONDS = 5
LONGEST_PAUSE_SECONDS = 3600
MOST_FAILURES = 40
"""Five seconds, doubled up to an hour, forty times: about a day and a half, long enough for a weekend's repair."""
_NAT64 = IPv6Network("64:ff9b::/96")


class ForbiddenAddress(Invalid):
    """A webhook may not lead there."""

    code = "forbidden_address"


@dataclass(frozen=True)
class Target:
    """Where a webhook leads, taken apart: `authority` as a Host header has it, `path` with its query."""

    scheme: str
    host: str
    port: int
    authority: str
    path: str


def read_target(url: str, *, allow_private: bool) -> Target:
    """Take a webhook's URL apart. Raises ForbiddenAddress.

    HTTPS, with a name or an address, and nothing that could mean two things to two programs: no user, no fragment, no
    blank, no backslash. `allow_private` is for a site that calls its own network, and allows plain HTTP there.

    >>> read_target("https://portal.example.eu/hooks?of=lumi", allow_private=False).path
    '/hooks?of=lumi'
    """
    if not url.isascii() or not url.isprintable() or any(mark in url for mark in " \\<>\"'`{}|^"):
        raise ForbiddenAddress("the URL has characters that must be escaped")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
    except ValueError:
        raise ForbiddenAddress("the URL cannot be read") from None
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise ForbiddenAddress("a webhook is called over https")
    if "@" in parts.netloc or parts.fragment or "#" in url:
        raise ForbiddenAddress("a webhook's URL has no user, no password and no fragment")
    if not host or len(host) > 253 or host.startswith((".", "-")) or "%" in host:
        raise ForbiddenAddress("the URL names no host")
    if port == 0:
        raise ForbiddenAddress("the URL names no port")
    usual = 443 if parts.scheme == "https" else 80
    name = f"[{host}]" if ":" in host else host
    return Target(
        parts.scheme,
        host,
        port or usual,
        name if port in (None, usual) else f"{name}:{port}",
        (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
    )


def is_public(text: str) -> bool:
    """Whether an address belongs to the public Internet, also when it hides an IPv4 address in an IPv6 one.

    >>> is_public("193.166.1.1"), is_public("127.0.0.1"), is_public("::ffff:10.0.0.1"), is_public("169.254.169.254")
    (True, False, False, False)
    """
    address: Address = ip_address(text.partition("%")[0])
    inner = _hidden_in(address)
    if inner is not None:
        return is_public(str(inner))
    return address.is_global and not address.is_multicast and not address.is_reserved


def _hidden_in(address: Address) -> IPv4Address | None:
    if not isinstance(address, IPv6Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def choose_address(found: list[str], *, allow_private: bool) -> str:
    """The address to connect to: the first that a name has. One that is not public makes all of them suspect.

    Raises: ForbiddenAddress, if there is none, or if one of them is not public and that is not allowed.
    """
    if not found:
        raise ForbiddenAddress("the host has no address")
    if not allow_private and not all(is_public(one) for one in found):
        raise ForbiddenAddress("the host is not on the public Internet")
    return found[0]


def pause_seconds(failures: int) -> int:
    """How long to wait after so many failures in a row.

    >>> [pause_seconds(count) for count in (1, 2, 3, 11, 12)]
    [5, 10, 20, 3600, 3600]
    """
    return min(FIRST_PAUSE_SECONDS << (min(failures, 32) - 1), LONGEST_PAUSE_SECONDS)


def secret_of(key: str, webhook_id: str, generation: int) -> str:
    """The secret a receiver shares with us, 256 bits in hex: made anew from the service's key, so it is never kept."""
    name = f"webhook secret v1|{webhook_id}|{generation}"
    return hmac.new(key.encode(), name.encode(), hashlib.sha256).hexdigest()


def challenge_of(key: str, webhook_id: str, generation: int) -> str:
    """What a receiver must repeat before it is given anything."""
    name = f"webhook challenge v1|{webhook_id}|{generation}"
    return hmac.new(key.encode(), name.encode(), hashlib.sha256).hexdigest()[:32]
