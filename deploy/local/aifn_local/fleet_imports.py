"""What every process of a fleet needs, imported once before they are forked."""

import importlib
import pkgutil

from aifn_local.fleet import ROOMS

for room in ROOMS:
    service = importlib.import_module(f"aifn_{room}.app").service
    for router in service.routers:
        pkgutil.resolve_name(router)
for name in ("aifn_common.answering", "aifn_local.issuer", "uvloop", "httptools"):
    importlib.import_module(name)
