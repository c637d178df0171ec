"""Which Debian packages an image has: read from its own records, without running it."""

import io
import tarfile

from aifn_images.tools import run, run_bytes

_PLACES = ("var/lib/dpkg/status", "var/lib/dpkg/status.d")


def packages_in(image: str) -> list[str]:
    """The control fields of each Debian package in an image; none if it is no Debian or keeps no records."""
    container = run(["docker", "create", image, "none"]).strip()
    try:
        found: list[str] = []
        for place in _PLACES:
            data = run_bytes(["docker", "cp", f"{container}:/{place}", "-"])
            found += [block for text in _texts(data) for block in text.split("\n\n") if "Package:" in block]
        return sorted(found)
    finally:
        run(["docker", "rm", "--force", container])


def _texts(tar: bytes) -> list[str]:
    if not tar:
        return []
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        files = [archive.extractfile(member) for member in archive.getmembers() if member.isfile()]
        return [file.read().decode("utf-8", "replace") for file in files if file is not None]
