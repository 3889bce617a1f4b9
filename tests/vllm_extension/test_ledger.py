import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock_vllm.commands import LoadCommand
from loradock_vllm.errors import ExtensionError
from loradock_vllm.fences import Fences
from loradock_vllm.ledger import NOTHING_RESIDENT, AdapterState, Ledger, Resident

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def load(name: str = "greeter@1", int_id: int = 1, digest: str = ONE, **more: Any) -> LoadCommand:
    fields = {
        "incarnation": "i",
        "operation": "op-1",
        "run_id": "r",
        "epoch": 1,
        "path": f"/c/{digest[7:]}",
        **more,
    }
    return LoadCommand(served_name=name, int_id=int_id, digest=digest, **fields)


def code_of(ledger: Ledger, command: LoadCommand) -> str:
    with pytest.raises(ExtensionError) as caught:
        ledger.match(command)
    return caught.value.code


def test_an_unknown_name_must_be_loaded() -> None:
    assert Ledger().match(load()) is None


def test_the_same_name_digest_and_id_are_held_already() -> None:
    ledger = Ledger()
    held = ledger.add(load())
    assert ledger.match(load(operation="op-2")) is held
    assert held.operation == "op-1"


def test_a_name_is_never_two_things() -> None:
    ledger = Ledger()
    ledger.add(load())
    assert code_of(ledger, load(digest=TWO)) == "adapter_conflict"
    assert code_of(ledger, load(int_id=2)) == "adapter_conflict"


def test_an_id_is_never_two_adapters() -> None:
    ledger = Ledger()
    held = ledger.add(load())
    assert code_of(ledger, load("greeter@2", digest=TWO)) == "int_id_conflict"
    assert code_of(ledger, load("greeter@2", digest=ONE)) == "int_id_conflict"
    ledger.discard(held)
    assert ledger.match(load("greeter@2", digest=TWO)) is None


def test_an_id_left_behind_belongs_to_its_weights() -> None:
    ledger = Ledger()
    ledger.note_leftover(1, ONE)
    assert code_of(ledger, load(digest=TWO)) == "int_id_conflict"
    assert ledger.match(load(digest=ONE)) is None
    ledger.forget_leftover(1)
    assert ledger.match(load(digest=TWO)) is None


def test_discarding_an_adapter_that_was_replaced_touches_nothing() -> None:
    ledger = Ledger()
    old = ledger.add(load())
    ledger.discard(old)
    new = ledger.add(load())
    ledger.discard(old)
    assert ledger.get("greeter@1") is new


def test_a_resume_ends_every_drain_before_it() -> None:
    ledger = Ledger()
    adapter = ledger.add(load())
    first = ledger.start_drain("greeter@1").generation
    assert ledger.start_drain("greeter@1").generation == first
    assert adapter.state is AdapterState.DRAINING
    ledger.resume("greeter@1")
    assert adapter.state is AdapterState.SERVING
    assert ledger.start_drain("greeter@1").generation != first


@given(st.lists(st.tuples(st.sampled_from(["a@1", "b@1"]), st.integers(0, 5))))
def test_no_epoch_below_the_highest_of_its_name_is_ever_admitted(calls: list[tuple[str, int]]) -> None:
    ledger, highest = Ledger(), {"a@1": -1, "b@1": -1}
    for name, epoch in calls:
        if epoch < highest[name]:
            with pytest.raises(ExtensionError):
                ledger.fence(load(name, epoch=epoch))
        else:
            ledger.fence(load(name, epoch=epoch))
        highest[name] = max(highest[name], epoch)
        assert ledger.fences.epoch(name) == highest[name]


def test_a_call_that_was_on_its_way_too_long_is_refused_once_its_run_puts_back() -> None:
    ledger = Ledger()
    ledger.fence(load(epoch=5, run_id="a"))
    ledger.fence(load(epoch=5, run_id="a", undo=True))
    with pytest.raises(ExtensionError) as caught:
        ledger.fence(load(epoch=5, run_id="a"))
    assert caught.value.code == "stale_epoch"
    ledger.fence(load(epoch=5, run_id="a", undo=True))
    ledger.fence(load(name="greeter@2", epoch=5, run_id="a"))


def test_a_reset_or_a_later_operation_goes_forward_after_an_undo() -> None:
    ledger = Ledger()
    ledger.fence(load(epoch=5, run_id="a", undo=True))
    ledger.fence(load(epoch=5, run_id="b"))
    ledger.fence(load(epoch=6, run_id="c"))


def test_a_load_that_is_cut_off_leaves_its_id_to_be_cleaned_up() -> None:
    ledger = Ledger()
    ledger.begin_load(load(), NOTHING_RESIDENT, 0.0)
    assert ledger.leftovers() == {1}
    assert code_of(ledger, load("greeter@2", digest=TWO)) == "int_id_conflict"
    ledger.add(load())
    assert ledger.leftovers() == set()


def test_a_reload_of_what_is_held_is_never_cleaned_up_as_a_leftover() -> None:
    ledger = Ledger()
    ledger.add(load())
    ledger.begin_load(load(), NOTHING_RESIDENT, 0.0)
    assert ledger.leftovers() == set()


def test_no_two_adapters_held_are_counted_together() -> None:
    ledger = Ledger()
    first, second = ledger.add(load("a@1", 1)), ledger.add(load("b@1", 2))
    assert 0 not in {first.cell, second.cell}
    assert first.cell != second.cell
    ledger.discard(first)
    assert ledger.add(load("c@1", 3)).cell == first.cell


def test_a_ledger_that_was_written_down_is_the_same_when_it_is_read() -> None:
    ledger = Ledger()
    ledger.fence(load(epoch=4))
    ledger.add(load(epoch=4))
    ledger.start_drain("greeter@1")
    ledger.note_leftover(7, TWO)
    ledger.begin_load(load("b@1", 2, TWO), Resident(frozenset({1}), frozenset({1, 7})), 12.5)
    head, tail = json.loads(json.dumps(ledger.dump())), json.loads(json.dumps(ledger.fences.dump()))
    read = Ledger.read(head, Fences.read(tail))
    assert read.adapters() == ledger.adapters()
    assert (read.loading, read.leftovers(), read.recent_loads) == (
        ledger.loading,
        ledger.leftovers(),
        ledger.recent_loads,
    )
    assert (read.dump(), read.fences.dump()) == (ledger.dump(), ledger.fences.dump())
    with pytest.raises(ExtensionError):
        read.fence(load(epoch=3))
