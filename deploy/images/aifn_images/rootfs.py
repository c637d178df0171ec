"""Base images out of Debian packages alone: for sites without a registry, and for a CI without one."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aifn_images.tools import BUILD, SOURCES, ImageError, digest, run

RECIPE_LABEL = "eu.aifn.recipe"
_ALWAYS = ("busybox-static", "dpkg", "tar", "tzdata", "netbase")
_RECORDS = "/var/lib/dpkg/status.d"
# What came only to read the packages, with its records.
_TOOLS = (
    f"/bin/tar /usr/sbin/rmt-tar /usr/sbin/tarcat /etc/rmt {_RECORDS}/tar {_RECORDS}/dpkg {_RECORDS}/debconf "
    "/usr/lib/*/gconv /usr/lib/*/perl-base /usr/share/doc/tar /usr/share/doc/dpkg /usr/share/doc/debconf"
)


@dataclass(frozen=True)
class Rootfs:
    """What a base image is made of: Debian packages, and what of them is left out again (shell patterns).

    `own`: folders for the user that runs it.
    """

    name: str
    packages: tuple[str, ...]
    drop: str
    own: str = ""


PYTHON = Rootfs(
    "python",
    ("python3.11-minimal", "libpython3.11-stdlib", "ca-certificates", "libstdc++6", "media-types"),
    # No shell and no archive program: who gets in finds nothing to work with.
    drop=f"{_TOOLS} /bin/busybox /bin/sh {_RECORDS}/busybox-static /usr/share/doc/busybox-static /usr/sbin",
)
POSTGRES = Rootfs(
    "postgres-base",
    ("postgresql-15", "postgresql-client-15", "libstdc++6"),
    # The just-in-time compiler is off below a cost that our statements do not reach, and is 120 MB.
    drop=" ".join(
        (
            _TOOLS,
            "/usr/lib/postgresql/15/lib/llvmjit* /usr/lib/postgresql/15/lib/bitcode /usr/lib/*/libLLVM*",
            "/usr/lib/*/libz3* /usr/bin/perl* /usr/share/perl* /usr/lib/*/perl* /usr/lib/*/libperl* /usr/bin/openssl",
            "/usr/lib/*/systemd /usr/lib/systemd /usr/share/postgresql/15/man",
            f"{_RECORDS}/libllvm14 {_RECORDS}/libz3-4 {_RECORDS}/perl* {_RECORDS}/libperl*",
        )
    ),
    own="/var/lib/postgresql /var/run/postgresql",
)
KAFKA = Rootfs("java-base", ("libc6", "zlib1g", "libstdc++6"), drop=_TOOLS, own="/var/lib/kafka /var/lib/kafka/data")


def make(rootfs: Rootfs, tag: str) -> None:
    """Have the base image under this tag; one made by the same recipe from the same sources is kept.

    Set AIFN_FRESH=1 to make it anew, with what the mirror has now. Raises ImageError.
    """
    sources = apt_sources()
    files = [path.read_bytes() for path in (*sources, *sorted((SOURCES / "rootfs").iterdir()))]
    recipe = digest(*rootfs.packages, rootfs.drop, rootfs.own, *files)
    if os.environ.get("AIFN_FRESH") != "1" and recipe_of(tag) == recipe:
        return
    raw, tar = f"{tag}-unpacked", BUILD / f"{rootfs.name}.tar"
    BUILD.mkdir(parents=True, exist_ok=True)
    run(
        ["mmdebstrap", "--quiet", "--variant=extract", f"--include={','.join((*_ALWAYS, *rootfs.packages))}",
         "--skip=cleanup/apt", *apt_options(), suite(), str(tar), *map(str, sources)]
    )  # fmt: skip
    try:
        run(["docker", "import", str(tar), raw])
        run(
            ["docker", "build", "--quiet", "--no-cache", "--build-arg", f"RAW={raw}",
             "--build-arg", f"DROP={rootfs.drop}", "--build-arg", f"OWN={rootfs.own}",
             "--label", f"{RECIPE_LABEL}={recipe}", "--tag", tag, str(SOURCES / "rootfs")],
        )  # fmt: skip
    finally:
        tar.unlink(missing_ok=True)
        if present(raw):
            run(["docker", "image", "rm", "--force", raw])


def suite() -> str:
    """Debian's release: AIFN_DEBIAN_SUITE, or the one this machine is. Raises ImageError when it is no Debian."""
    chosen = os.environ.get("AIFN_DEBIAN_SUITE")
    if chosen:
        return chosen
    release = Path("/etc/os-release")
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', release.read_text() if release.exists() else "", re.MULTILINE))
    if fields.get("ID") != "debian":
        raise ImageError(
            "this machine is no Debian: set AIFN_DEBIAN_SUITE=bookworm and AIFN_APT_SOURCES=a-sources-file"
        )
    return str(fields["VERSION_CODENAME"])


def apt_sources() -> list[Path]:
    """Where packages come from: the files AIFN_APT_SOURCES names, or this machine's own. Raises ImageError."""
    named = os.environ.get("AIFN_APT_SOURCES")
    if named:
        files = [Path(one) for one in named.split(":")]
    else:
        usual = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]
        files = [path for path in usual if path.exists() and path.stat().st_size][:1]
    if not files or not all(path.is_file() for path in files):
        raise ImageError(f"no apt sources in {named or '/etc/apt'}: set AIFN_APT_SOURCES to a sources file of Debian")
    return files


def apt_options() -> Sequence[str]:
    """More for apt, such as a proxy or an old snapshot: a file in apt's own form, named by AIFN_APT_CONF."""
    file = os.environ.get("AIFN_APT_CONF")
    return [f"--aptopt={file}"] if file else []


def present(tag: str) -> bool:
    """Whether the engine has an image."""
    return bool(run(["docker", "image", "ls", "--quiet", tag]).strip())


def recipe_of(tag: str) -> str:
    """By which recipe an image was made; empty for none of ours, or when it is not there."""
    if not present(tag):
        return ""
    return run(
        ["docker", "image", "inspect", "--format", f'{{{{index .Config.Labels "{RECIPE_LABEL}"}}}}', tag]
    ).strip()
