"""Says what a container is like from inside, as JSON; it is run by the Python of a service's image."""

import json
import os
import platform
import shutil
import sys
from importlib import metadata

TOOLS = ("gcc", "cc", "ld", "as", "make", "apt", "apt-get", "dpkg", "curl", "wget")


def writable(folder: str) -> bool:
    """Whether a file can be made there."""
    try:
        with open(os.path.join(folder, "probe"), "w"):
            return True
    except OSError:
        return False


print(
    json.dumps(
        {
            "user": os.getuid(),
            "group": os.getgid(),
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "machine": platform.machine(),
            "tools": [name for name in TOOLS if shutil.which(name)],
            "writable": [folder for folder in ("/", "/tmp", "/opt/aifn", "/var") if writable(folder)],  # noqa: S108
            "installed": {
                (found.metadata["Name"] or "").lower().replace("_", "-").replace(".", "-"): found.version
                for found in metadata.distributions()
            },
        }
    )
)
