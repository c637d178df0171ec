"""The part of an award that inference may use: metered apart, warned of, and then refused."""

from aifn_common.database import Transaction
from aifn_common.outbox import announce
from aifn_events.placement import JobPlaced
from aifn_events.shares import ThresholdReached

from aifn_accounting.domain.ledger import Allocation
from aifn_accounting.domain.policies import check_inference, inference_limit
from aifn_accounting.store import allocations as store


async def meter(tx: Transaction, event: JobPlaced, payer: Allocation) -> None:
    """Look whether a job still fits into the part of its allocation that inference may use; say so when that is near.

    The part is that of the call the award came from, as it was then: a later switch does not reach back.
    Raises: InferenceCapReached.
    """
    if event.workload != "inference":
        return
    terms = await store.terms_of(tx, payer.number)
    if terms.inference_cap_pct is None:
        return
    used = await store.inference_used(tx, payer.number, but=event.job_id)
    limit = inference_limit(terms.given, terms.inference_cap_pct)
    for percent in check_inference(payer.id, used=used, limit=limit, asked=event.amount):
        await announce(
            tx,
            ThresholdReached(
                allocation_id=payer.id,
                project_id=payer.project_id,
                resource=payer.resource,
                of="inference",
                percent=percent,
                used=used + event.amount,
                limit=limit,
            ),
        )


async def remember(tx: Transaction, event: JobPlaced) -> None:
    """Keep that a job is inference, once its row is there; of other work nothing is metered apart."""
    if event.workload == "inference":
        await store.put_workload(tx, event.job_id, event.workload)
