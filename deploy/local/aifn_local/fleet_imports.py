"""What every process of a fleet needs, imported once before they are forked."""

import importlib

from aifn_local.fleet import ROOMS

for room in ROOMS:
    importlib.import_module(f"aifn_{room}.app")
importlib.import_module("aifn_local.issuer")
importlib.import_module("uvloop")
importlib.import_module("httptools")
