import asyncio

import pytest

from loradock_vllm.admission import LISTING, NOTHING, AdmittedAdapters, seeing


def table() -> AdmittedAdapters:
    adapters = AdmittedAdapters({"static": 0})
    adapters.bind("a@1", 1)
    adapters.bind("b@1", 2)
    return adapters


def test_a_request_that_was_not_admitted_sees_none_of_ours() -> None:
    adapters = table()
    assert "a@1" not in adapters
    assert adapters.get("a@1") is None
    with pytest.raises(KeyError):
        adapters["a@1"]
    assert list(adapters.values()) == [0]
    assert list(adapters) == list(adapters.keys()) == ["static"]
    assert len(adapters) == 1


def test_an_admitted_request_sees_its_own_adapter_only() -> None:
    adapters = table()
    with seeing("a@1"):
        assert "a@1" in adapters
        assert adapters["a@1"] == adapters.get("a@1") == 1
        assert "b@1" not in adapters
        assert dict(adapters.items()) == {"static": 0, "a@1": 1}
        with seeing(NOTHING):
            assert "a@1" not in adapters
    assert "a@1" not in adapters


def test_who_lists_sees_all_and_uses_none() -> None:
    adapters = table()
    with seeing(LISTING):
        assert list(adapters.values()) == [0, 1, 2]
        assert "a@1" not in adapters


def test_adapters_of_others_are_always_there() -> None:
    adapters = table()
    assert adapters["static"] == 0
    assert adapters.foreign() == {"static": 0}
    adapters.unbind("static")
    assert "static" in adapters


def test_an_unbound_adapter_is_gone_for_everyone() -> None:
    adapters = table()
    adapters.unbind("a@1")
    adapters.unbind("a@1")
    with seeing("a@1"):
        assert "a@1" not in adapters


async def test_tasks_of_a_request_see_what_it_sees_and_others_do_not() -> None:
    adapters = table()

    async def look() -> bool:
        await asyncio.sleep(0)
        return "a@1" in adapters

    stranger = asyncio.create_task(look())
    with seeing("a@1"):
        child = asyncio.create_task(look())
    assert await child
    assert not await stranger
