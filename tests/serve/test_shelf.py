"""Adapters beyond the memory that is theirs: all answer, few are held, none keeps another out."""

import shutil
import time
from pathlib import Path

import pytest
import torch

from tunewise.contracts.run import BaseModelRef
from tunewise.errors import ModelError, ServingError
from tunewise.serve.adapters import WEIGHTS_FILE, measure_adapter, read_adapter
from tunewise.serve.generation import Finished, Generation, Sampling
from tunewise.serve.local import LIMITS, LocalEngine, Result

PROMPT = tuple(range(300, 340))


def asked(adapter: str | None, place: int = 0) -> Generation:
    sampling = Sampling(0.0, 1.0, 0)
    return Generation((*PROMPT, 400 + place), adapter, 1, 8, sampling, top_logprobs=0, ignore_eos=True)


def tokens(result: Result) -> list[int]:
    return [item.token for item in result.logprobs[0]]


def sizes(adapters: dict[str, Path]) -> dict[str, int]:
    return {name: measure_adapter(path, torch.float32) for name, path in adapters.items()}


def hosting(model: BaseModelRef, adapters: dict[str, Path], budget: int) -> LocalEngine:
    local = LocalEngine(model.path, torch.float32, LIMITS._replace(adapter_bytes=budget))
    for name, path in adapters.items():
        local.engine.load_before_start(name, path)
    return local


def test_the_header_tells_the_bytes_that_are_read(adapters: dict[str, Path]) -> None:
    for name, path in adapters.items():
        read = read_adapter(name, path)
        own = sum(pair.down.numel() + pair.up.numel() for pair in read.pairs.values())
        own += sum(0 if pair.magnitude is None else pair.magnitude.numel() for pair in read.pairs.values())
        assert measure_adapter(path, torch.float32) == 4 * own
        assert measure_adapter(path, torch.bfloat16) == 2 * own


def test_with_memory_for_one_adapter_at_a_time_every_answer_is_the_same(
    tiny_model: BaseModelRef, adapters: dict[str, Path]
) -> None:
    wanted = [asked(name, place) for place, name in enumerate([*adapters, None] * 5)]
    with hosting(tiny_model, adapters, LIMITS.adapter_bytes) as plenty:
        expected = [tokens(result) for result in plenty.generate(wanted)]
    budget = max(sizes(adapters).values())
    with hosting(tiny_model, adapters, budget) as scarce:
        assert [tokens(result) for result in scarce.generate(wanted)] == expected
        assert scarce.engine.adapter_bytes() <= budget
    assert len({tuple(answer) for answer in expected[:4]}) == 4


def test_many_registered_adapters_take_the_memory_of_few(tiny_model: BaseModelRef, adapters: dict[str, Path]) -> None:
    budget = 3 * sizes(adapters)["all"]
    with hosting(tiny_model, {}, budget) as local:
        for number in range(40):
            local.engine.load_adapter(f"copy-{number}", adapters["all"])
            assert local.engine.adapter_bytes() <= budget
        assert len(local.engine.adapters) == 40
        answers = local.generate([asked(f"copy-{number}") for number in (0, 39, 17, 0)])
        assert len({tuple(tokens(answer)) for answer in answers}) == 1
        assert answers[3].usage.cached_tokens == 32  # a prefix is its adapter's, in memory or not


def test_an_adapter_larger_than_all_that_is_theirs_is_refused_before_it_is_read(
    tiny_model: BaseModelRef, adapters: dict[str, Path]
) -> None:
    size = sizes(adapters)["all"]
    with hosting(tiny_model, {}, size - 1) as local:
        with pytest.raises(ModelError, match="--adapter-memory-mb") as refused:
            local.engine.load_adapter("all", adapters["all"])
        assert refused.value.code == "adapter_too_large"
        local.engine.load_adapter("some", adapters["some"])
        assert list(local.engine.adapters) == ["some"]
        assert local.generate([asked("some")])[0].finish_reasons == ["length"]


def test_a_model_that_is_asked_without_a_pause_keeps_no_other_out(
    tiny_model: BaseModelRef, adapters: dict[str, Path]
) -> None:
    both = {name: adapters[name] for name in ("third", "all")}  # the last one is in memory
    with hosting(tiny_model, both, max(sizes(both).values())) as local:
        wanted = [asked("all", place) for place in range(40)]
        wanted.insert(20, asked("third"))
        wanted = [one._replace(max_tokens=64) for one in wanted]
        order: list[int] = []
        numbers = [local.engine.submit(one) for one in wanted]
        while len(order) < len(wanted):
            order += [number for number, event in local.next_events() if isinstance(event, Finished)]
        assert order.index(numbers[20]) == 20


def test_an_adapter_whose_files_are_gone_fails_its_own_requests_only(
    tiny_model: BaseModelRef, adapters: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(adapters["all"], tmp_path / "gone")
    with hosting(tiny_model, {"gone": tmp_path / "gone", "all": adapters["all"]}, sizes(adapters)["all"]) as local:
        (tmp_path / "gone" / WEIGHTS_FILE).unlink()
        with pytest.raises(ModelError, match=WEIGHTS_FILE):
            local.generate([asked("gone")])
        assert local.generate([asked("all"), asked(None)])[0].finish_reasons == ["length"]
        assert local.engine.unfinished == 0


def test_an_adapter_that_is_unloaded_while_its_gone_files_are_read_leaves_the_engine_well(
    tiny_model: BaseModelRef, adapters: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(adapters["all"], tmp_path / "gone")
    with hosting(tiny_model, {"gone": tmp_path / "gone", "all": adapters["all"]}, sizes(adapters)["all"]) as local:
        (tmp_path / "gone" / WEIGHTS_FILE).unlink()
        for _ in range(20):
            number = local.engine.submit(asked("gone"))
            local.engine.cancel(number)
        local.engine.unload_adapter("gone")
        assert local.generate([asked("all")])[0].finish_reasons == ["length"]
        assert local.engine.failure is None


def test_a_request_at_the_door_can_be_cancelled_and_its_adapter_unloaded(
    tiny_model: BaseModelRef, adapters: dict[str, Path]
) -> None:
    both = {name: adapters[name] for name in ("all", "third")}
    with hosting(tiny_model, both, max(sizes(both).values())) as local:
        long = local.engine.submit(asked("third")._replace(max_tokens=1500))
        waiting = local.engine.submit(asked("all"))
        local.engine.unload_adapter("all")
        local.engine.cancel(waiting)
        local.engine.cancel(long)
        deadline = time.monotonic() + 10
        while local.engine.unfinished and time.monotonic() < deadline:
            time.sleep(0.01)
        assert local.engine.unfinished == 0
        with pytest.raises(ServingError, match="all"):
            local.generate([asked("all")])
        assert local.generate([asked("third")])[0].finish_reasons == ["length"]
