"""A process that reads large batches does not look through them for garbage."""

import gc
from collections.abc import Iterator

import pytest
from aifn_common.batches import make_room_for

RECORDS = 200


@pytest.fixture(autouse=True)
def thresholds_as_before() -> Iterator[None]:
    """The process of the tests looks for garbage afterwards as it did."""
    before = gc.get_threshold()
    gc.collect()
    yield
    gc.set_threshold(*before)


def looks_while_two_batches_are_held() -> int:
    """How often garbage was looked for while as many objects were made as two batches of records have."""
    looks = 0

    def look(phase: str, _: object) -> None:
        nonlocal looks
        looks += phase == "start"

    gc.callbacks.append(look)
    try:
        records = [[[name] for name in range(20)] for _ in range(2 * RECORDS)]
        assert len(records) == 2 * RECORDS
    finally:
        gc.callbacks.remove(look)
    return looks


def test_two_batches_fit_between_two_looks_for_garbage() -> None:
    gc.set_threshold(1000, 20, 50)
    assert looks_while_two_batches_are_held() > 0
    make_room_for(RECORDS)
    assert looks_while_two_batches_are_held() == 0


def test_a_reader_of_small_batches_leaves_the_process_as_it_is() -> None:
    gc.set_threshold(2_000_000, 20, 50)
    make_room_for(RECORDS)
    assert gc.get_threshold() == (2_000_000, 20, 50)
