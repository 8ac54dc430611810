"""The engine's tokens equal those of transformers, whoever else is in the batch."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from serve.running import peft_warnings, save_adapter
from tunewise.contracts.run import BaseModelRef
from tunewise.errors import ModelError, ServingError
from tunewise.serve.generation import Generation, Sampling
from tunewise.serve.local import LIMITS, LocalEngine, Result

GREEDY = Sampling(0.0, 1.0, 0)
NEW_TOKENS = 12


def prompts(count: int, shared: int = 40) -> list[tuple[int, ...]]:
    """Random prompts of mixed lengths, half of which begin with the same tokens."""
    numbers = random.Random(5)
    beginning = [numbers.randrange(3, 40_000) for _ in range(shared)]
    made = []
    for place in range(count):
        own = [numbers.randrange(3, 40_000) for _ in range(numbers.choice([1, 15, 16, 17, 33, 90, 300]))]
        made.append(tuple(beginning + own if place % 2 else own))
    return made


def generation(prompt: tuple[int, ...], adapter: str | None = None, **changes: Any) -> Generation:  # noqa: ANN401
    plain = Generation(prompt, adapter, 1, NEW_TOKENS, GREEDY, top_logprobs=0, ignore_eos=True)
    return plain._replace(**changes)


def tokens(result: Result, choice: int = 0) -> list[int]:
    return [item.token for item in result.logprobs[choice]]


def references(
    model: Path, adapters: dict[str, Path], wanted: list[tuple[tuple[int, ...], str | None]]
) -> list[list[int]]:
    """What transformers and PEFT write, one prompt at a time."""
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    names = list(adapters)
    with peft_warnings():
        tuned = PeftModel.from_pretrained(plain, str(adapters[names[0]]), adapter_name=names[0])
        for name in names[1:]:
            tuned.load_adapter(str(adapters[name]), name)
    generate: Any = tuned.generate  # untyped in peft
    made = []
    for prompt, adapter in wanted:
        ids = torch.tensor([prompt])
        settings: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
        settings |= {"attention_mask": torch.ones_like(ids), "eos_token_id": None}
        with torch.inference_mode():
            if adapter is None:
                with tuned.disable_adapter():
                    written = generate(input_ids=ids, **settings)
            else:
                tuned.set_adapter(adapter)
                written = generate(input_ids=ids, **settings)
        made.append(written[0, len(prompt) :].tolist())
    return made


@pytest.fixture(scope="module")
def local(tiny_model: BaseModelRef, adapters: dict[str, Path]) -> Iterator[LocalEngine]:
    with LocalEngine(tiny_model.path, torch.float32) as running:
        for name, path in adapters.items():
            running.engine.load_adapter(name, path)
        yield running


def test_greedy_tokens_equal_generate_with_adapters_mixed_in_one_batch(
    tiny_model: BaseModelRef, adapters: dict[str, Path]
) -> None:
    names: list[str | None] = [None, *adapters]
    wanted = [(prompt, names[place % len(names)]) for place, prompt in enumerate(prompts(32))]
    expected = references(tiny_model.path, adapters, wanted)
    assert len({tuple(row) for row in expected}) > len(names)  # the adapters do change the answers
    for prefix_bytes in (0, LIMITS.prefix_bytes):
        with LocalEngine(tiny_model.path, torch.float32, LIMITS._replace(prefix_bytes=prefix_bytes)) as local:
            for name, path in adapters.items():
                local.engine.load_adapter(name, path)
            results = local.generate([generation(prompt, adapter) for prompt, adapter in wanted])
        assert [tokens(result) for result in results] == expected
        assert any(result.usage.cached_tokens for result in results) == bool(prefix_bytes)


def test_a_long_answer_moves_through_the_pools_and_stays_equal(
    tiny_model: BaseModelRef, adapters: dict[str, Path], local: LocalEngine
) -> None:
    crossing = [prompt + prompt[:1] * (250 - len(prompt)) for prompt in prompts(6) if len(prompt) < 250]
    expected = references(tiny_model.path, adapters, [(prompt, None) for prompt in crossing])
    assert [tokens(result) for result in local.generate([generation(prompt) for prompt in crossing])] == expected


def test_prompts_that_arrive_together_compute_their_shared_beginning_once(local: LocalEngine) -> None:
    beginning = tuple(range(20_000, 20_000 + 128))
    results = local.generate([generation((*beginning, 500 + place)) for place in range(6)])
    assert sorted(result.usage.cached_tokens for result in results) == [0, 128, 128, 128, 128, 128]


def test_a_prefix_computed_for_one_adapter_is_not_used_for_another(local: LocalEngine) -> None:
    prompt = tuple(range(25_000, 25_100))
    first, other, again = (local.generate([generation(prompt, name)])[0] for name in ("all", None, "all"))
    assert first.usage.cached_tokens == other.usage.cached_tokens == 0
    assert again.usage.cached_tokens == 96
    assert tokens(again) == tokens(first) != tokens(other)


def test_the_same_seed_gives_the_same_tokens_whatever_else_is_in_the_batch(local: LocalEngine) -> None:
    prompt = prompts(1)[0]
    drawn = generation(prompt, n=3, sampling=Sampling(1.3, 0.9, 77))
    alone = local.generate([drawn])[0]
    others = [generation(other, "some", sampling=Sampling(1.0, 1.0, seed)) for seed, other in enumerate(prompts(20))]
    crowded = local.generate([*others[:10], drawn, *others[10:]])[10]
    assert [tokens(alone, choice) for choice in range(3)] == [tokens(crowded, choice) for choice in range(3)]
    assert len({tuple(tokens(alone, choice)) for choice in range(3)}) == 3


def test_logprobs_are_those_of_the_model_itself(tiny_model: BaseModelRef, local: LocalEngine) -> None:
    prompt = prompts(1)[0]
    result = local.generate([generation(prompt, top_logprobs=5, sampling=Sampling(0.7, 0.5, 1))])[0]
    model = AutoModelForCausalLM.from_pretrained(tiny_model.path, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *tokens(result)]])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(dim=-1)
    for place, item in enumerate(result.logprobs[0]):
        assert item.logprob == pytest.approx(float(expected[place, item.token]), abs=1e-4)
        assert [token for token, _ in item.top] == expected[place].topk(5).indices.tolist()


def test_a_full_queue_is_refused(tiny_model: BaseModelRef) -> None:
    with LocalEngine(tiny_model.path, torch.float32, LIMITS._replace(running=1, waiting=1)) as local:
        long = generation(prompts(1)[0], max_tokens=1500)
        numbers = [local.engine.submit(long), local.engine.submit(long)]
        with pytest.raises(ServingError) as refused:
            local.engine.submit(long)
        for number in numbers:
            local.engine.cancel(number)
        began = time.monotonic()
        while local.engine.unfinished:
            assert time.monotonic() - began < 10, "cancelled requests still count"
            time.sleep(0.01)
        assert local.generate([generation(prompts(1)[0])])[0].finish_reasons == ["length"]
    assert refused.value.code == "queue_full"


def test_an_unloaded_adapter_answers_no_more_and_its_name_is_free(
    local: LocalEngine, adapters: dict[str, Path]
) -> None:
    prompt = prompts(1)[0]
    before = local.generate([generation(prompt, "third")])[0]
    local.engine.unload_adapter("third")
    with pytest.raises(ServingError, match="third"):
        local.generate([generation(prompt, "third")])
    with pytest.raises(ModelError) as unknown:
        local.engine.unload_adapter("third")
    assert unknown.value.code == "adapter_not_found"
    local.engine.load_adapter("third", adapters["third"])
    assert tokens(local.generate([generation(prompt, "third")])[0]) == tokens(before)


def test_memory_for_few_sequences_delays_requests_and_loses_none(tiny_model: BaseModelRef) -> None:
    with LocalEngine(tiny_model.path, torch.float32) as plenty:
        wanted = [generation(prompt) for prompt in prompts(10)]
        expected = [tokens(result) for result in plenty.generate(wanted)]
    with LocalEngine(tiny_model.path, torch.float32, LIMITS._replace(kv_bytes=1)) as scarce:
        assert [tokens(result) for result in scarce.generate(wanted)] == expected


@pytest.mark.slow
def test_the_real_model_writes_what_transformers_writes(smollm2: BaseModelRef, tmp_path: Path) -> None:
    save_adapter(smollm2.path, tmp_path / "tuned", 2, {"r": 8, "target_modules": "all-linear"}, spread=0.03)
    adapters = {"tuned": tmp_path / "tuned"}
    wanted = [(prompt, "tuned" if place % 2 else None) for place, prompt in enumerate(prompts(8))]
    with LocalEngine(smollm2.path, torch.float32) as local:
        local.engine.load_adapter("tuned", adapters["tuned"])
        results = local.generate([generation(prompt, adapter) for prompt, adapter in wanted])
    assert [tokens(result) for result in results] == references(smollm2.path, adapters, wanted)
