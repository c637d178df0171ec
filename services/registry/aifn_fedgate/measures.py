"""What the gate tells of itself in metrics: open alarms, gaps and how old they are, what was not believed."""

from aifn_common import telemetry
from aifn_common.database import Database

_ALARMS = "SELECT origin, alarm, count(*) AS open FROM alarm WHERE ended_at IS NULL GROUP BY 1, 2"
_GAPS = """
SELECT origin, extract(epoch FROM now() - min(moved_at))::float8 AS seconds FROM chain
WHERE (seen_epoch, seen_seq) > (epoch, seq) GROUP BY 1"""
_QUARANTINED = """
SELECT origin, count(*) AS messages FROM quarantine WHERE heard_at > now() - interval '24 hours' GROUP BY 1"""


async def measure(db: Database) -> None:
    """Put the state of the gate into the metrics."""
    metrics = telemetry.metrics
    for gauge in (metrics.federation_alarms, metrics.federation_gaps, metrics.federation_quarantined):
        gauge.drop()
    for row in await db.fetch(_ALARMS):
        metrics.federation_alarms.set(row["open"], origin=row["origin"], alarm=row["alarm"])
    for row in await db.fetch(_GAPS):
        metrics.federation_gaps.set(row["seconds"], origin=row["origin"])
    for row in await db.fetch(_QUARANTINED):
        metrics.federation_quarantined.set(row["messages"], origin=row["origin"])
