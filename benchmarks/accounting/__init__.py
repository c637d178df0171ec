"""Accounting: usage into the ledger, attempts to overspend, reads, and a peer beside it.

Sizes: AIFN_BENCH_RECORDS, AIFN_BENCH_ATTEMPTS, AIFN_BENCH_ALLOCATIONS, AIFN_BENCH_REQUESTS. AIFN_BENCH_PARTS names the
parts to run, all if it is empty: ingest,spend,reads,peer.
"""

import os

from aifn_common.service import calm_garbage_collection
from aifn_local import stack

from benchmarks.accounting import ingest, peer, reads, spend
from benchmarks.figures import Figure

PARTS = {"ingest": ingest.measure, "spend": spend.measure, "reads": reads.measure, "peer": peer.measure}


def run() -> list[Figure]:
    """The parts, one after the other, each on a stack of its own."""
    calm_garbage_collection()
    figures = []
    for name in (os.environ.get("AIFN_BENCH_PARTS") or ",".join(PARTS)).split(","):
        with stack.running() as state:
            figures += PARTS[name](state)
    return figures
