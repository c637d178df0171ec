"""Reads every charge from Kafka as an outside subscriber: TLS with a certificate and a group of one's own.

Usage: python consume.py --kafka kafka.example.eu:9093 --ca ca.crt --cert portal.crt --key portal.key --group portal-a

Needs aiokafka. Prints one charge a line and stops after `--count`; without it, never.
"""

import argparse
import asyncio
import json
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.helpers import create_ssl_context

Identity = tuple[str, str, str, int, str, str]


def identity(charge: dict[str, Any]) -> Identity:
    """Which charge this is a word on: the usage record, and the resource and allocation it was charged to."""
    return (
        charge["machine_id"],
        charge["local_job_id"],
        charge["submitted_at"],
        charge["segment"],
        charge["resource"],
        charge["allocation_id"],
    )


async def consume(said: argparse.Namespace) -> None:
    """Read, keep the highest revision of each charge, and commit what was kept."""
    consumer = AIOKafkaConsumer(
        said.topic,
        bootstrap_servers=said.kafka,
        security_protocol="SSL",
        ssl_context=create_ssl_context(cafile=said.ca, certfile=said.cert, keyfile=said.key),
        group_id=said.group,
        auto_offset_reset="earliest",  # a new group begins with the oldest message that is kept
        enable_auto_commit=False,
    )
    revisions: dict[Identity, int] = {}  # a real subscriber keeps this beside its own data
    seen = 0
    await consumer.start()
    try:
        while said.count is None or seen < said.count:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                for record in records:
                    charge = json.loads(record.value)
                    seen += 1
                    # The same may come twice, and a revision states the whole amount: only a higher one counts.
                    if charge["revision"] > revisions.get(identity(charge), -1):
                        revisions[identity(charge)] = charge["revision"]
                        print(json.dumps(charge), flush=True)
            await consumer.commit()
    finally:
        await consumer.stop()


def main() -> None:
    """Read the command line and consume."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("kafka", "ca", "cert", "key", "group"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--topic", default="aifn-usage-charged-v1")
    parser.add_argument("--count", type=int)
    asyncio.run(consume(parser.parse_args()))


if __name__ == "__main__":
    main()
