"""A worker's path of usage alone, as a process: `python -m benchmarks.accounting.reader BROKERS DATABASE_URL`."""

import asyncio
import signal
import sys

import uvloop
from aifn_accounting import subscribers
from aifn_accounting.settings import AccountingSettings
from aifn_common.batches import BatchReader
from aifn_common.database import connect
from aifn_common.kafka import Hearing
from aifn_common.service import calm_garbage_collection
from pydantic import SecretStr

from benchmarks.usage import KEY


async def _read(kafka: str, url: str) -> None:
    db = await connect(url, connections=4)
    settings = AccountingSettings(
        factory="lumi-aif", database_url=SecretStr(url), kafka=kafka, pseudonym_key=SecretStr(KEY)
    )
    hearing = Hearing(db, settings)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, hearing.stopping.set)
    [subscription] = subscribers.hears.batches
    await BatchReader(subscription, hearing).run()
    await db.close()


if __name__ == "__main__":
    calm_garbage_collection()
    uvloop.run(_read(*sys.argv[1:3]))
