"""An antenna without a broker: HTTPS brings what others say, its registry shows it, and it speaks the same way."""

from aifn_common.database import Database
from aifn_events.datalab import DatasetDescribed
from aifn_events.registry import FactoryDescribed
from aifn_fedgate.actions import heads
from aifn_fedgate.delivery import deliver_some
from aifn_registry.app import service
from aifn_registry.settings import RegistrySettings

from tests.federation.make import Federation, Gatehouse, capacity
from tests.support.backends import Backends
from tests.support.http import asking
from tests.support.settings import settings

ME = "nl-antenna"


def dataset(name: str, *, retired: bool = False) -> DatasetDescribed:
    return DatasetDescribed.example(
        dataset_id=name, factory_id="lumi-aif", source="urn:aifn:lumi-aif:datalab", retired=retired
    )


async def bring(gate: Gatehouse, registry: Database) -> int:
    """What the gate's timers do for a member without a broker; returns how many facts were delivered."""
    await gate.repair.ask_heads(gate.door.others())
    await gate.repair.close_gaps()
    delivered = 0
    while some := await deliver_some(gate.db, registry):
        delivered += some
    return delivered


async def shown(registry: Database, stream: str) -> list[tuple[str, str, int]]:
    """What the antenna's registry answers: whose, which, and the place in its owner's log."""
    async with asking(service, registry, settings(RegistrySettings, factory=ME)) as ask:
        answer = await ask.as_("pi").get("/v1/peers/facts", params={"stream": stream})
    assert answer.status_code == 200, answer.text
    return [(one["origin"], one["record_key"], one["seq"]) for one in answer.json()["items"]]


async def test_with_https_alone_an_antenna_shows_what_others_say_and_is_heard_itself(
    federation: Federation, lumi: Gatehouse, backends: Backends
) -> None:
    async with federation.gatehouse(ME, backends, kafka="") as antenna, backends.database("aifn_registry") as registry:
        for idle in range(4):
            await lumi.tell(capacity(idle=idle))
        await lumi.tell(dataset("speech"), "catalogue")
        await lumi.tell(dataset("gone"), "catalogue")
        await lumi.tell(dataset("gone", retired=True), "catalogue")
        await heads.sign_heads(lumi.db, lumi.door)

        assert await bring(antenna, registry) >= 7
        assert await shown(registry, "capacity") == [("lumi-aif", "lumi-aif/lumi-g", 4)]
        assert await shown(registry, "catalogue") == [("lumi-aif", "lumi-aif/speech", 1)]
        assert await bring(antenna, registry) == 0, "what was brought is not brought again"

        said = FactoryDescribed.example(factory_id=ME, source=f"urn:aifn:{ME}:registry")
        await antenna.tell(said, "knowledge")
        assert await antenna.db.fetchval("SELECT count(*) FROM outbox") == 0, "there is no broker to tell"
        await heads.sign_heads(antenna.db, antenna.door)
        await lumi.repair.ask_heads([ME])
        await lumi.repair.close_gaps()
        (heard,) = await lumi.facts("aifn-in-knowledge-v1")
        assert heard["record_key"] == f"{ME}/factory/{ME}"


async def test_a_registry_that_is_away_loses_nothing(
    federation: Federation, lumi: Gatehouse, backends: Backends
) -> None:
    async with federation.gatehouse(ME, backends, kafka="") as antenna, backends.database("aifn_registry") as registry:
        await lumi.tell(capacity(idle=1))
        await heads.sign_heads(lumi.db, lumi.door)
        await antenna.repair.ask_heads(["lumi-aif"])
        await antenna.repair.close_gaps()
        waiting = await antenna.db.fetchval("SELECT count(*) FROM outbox")
        assert waiting >= 1
        assert await bring(antenna, registry) == waiting
        assert await shown(registry, "capacity") == [("lumi-aif", "lumi-aif/lumi-g", 1)]
