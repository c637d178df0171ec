"""Answers over HTTP: `access` (modes, calls, applications) and `jobs` (the queue and its reasons)."""
