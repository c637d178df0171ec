"""The victim as a process of its own; see the package."""

import os
import signal
from pathlib import Path
from typing import Any

from aifn_common.service import run
from aiokafka import AIOKafkaConsumer

from tests.support.victim import make_victim


def _die_once_before_an_offset_commit(marker: Path) -> None:
    """The worst moment: the effect is committed in the database, the offset is not committed on the broker."""
    commit = AIOKafkaConsumer.commit

    async def dying(self: AIOKafkaConsumer, *given: Any, **more: Any) -> None:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        await commit(self, *given, **more)

    AIOKafkaConsumer.commit = dying


if __name__ == "__main__":
    if "AIFN_DIE_AT_COMMIT" in os.environ:
        _die_once_before_an_offset_commit(Path(os.environ["AIFN_DIE_AT_COMMIT"]))
    run(make_victim(name=os.environ.get("VICTIM_NAME", "victim")))
