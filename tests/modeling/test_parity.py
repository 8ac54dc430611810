"""The parity gate's arithmetic: what is recorded is what transformers writes, and what differs is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tunewise.contracts.parity import Parity, ParityPrompt
from tunewise.contracts.run import BaseModelRef
from tunewise.errors import ModelError
from tunewise.modeling.greedy import as_hosted, greedy_answers
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.parity import (
    TOLERANCES,
    Reading,
    Tolerance,
    read_parity,
    readings_of,
    require_parity,
    tolerance,
)

PROMPTS = [[1, 500, 70, 9], list(range(2000, 2040)), [44]]
RECORDED = ParityPrompt(prompt=(5, 6), continuation=(7, 8), logprobs=(-0.5, -1.0))
ALLOWED = Tolerance(0.1, 0.05)


def decode(ids: object) -> str:
    return f"text of {ids}"


@pytest.mark.parametrize("family", ["llama3", "qwen3", "gemma3"])
def test_answers_of_prompts_laid_together_are_those_of_each_alone(family: str, family_model: object) -> None:
    assert callable(family_model)
    model = load_frozen(family_model(family), "float32")
    prompts = [[ids % 300 for ids in prompt] for prompt in PROMPTS]
    with as_hosted(model):
        found = greedy_answers(model, prompts, set(), new_tokens=20)
    plain: Any = AutoModelForCausalLM.from_pretrained(model.config.name_or_path or "", dtype=torch.float32)
    for prompt, answer in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        written = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, eos_token_id=None
        )
        assert list(answer.continuation) == written[0, len(prompt) :].tolist()
        readings = readings_of(plain, answer)
        assert [reading.token for reading in readings] == list(answer.continuation)
        assert [reading.recorded for reading in readings] == pytest.approx(answer.logprobs, abs=2e-5)


def test_an_answer_ends_with_an_end_token_and_the_others_go_on(tiny_model: BaseModelRef) -> None:
    model = load_frozen(tiny_model, "float32")
    with as_hosted(model):
        free = greedy_answers(model, PROMPTS, set(), new_tokens=8)
        end = free[0].continuation[2]
        stopped = greedy_answers(model, PROMPTS, {end}, new_tokens=8)
    assert model.training is False
    assert model.config._attn_implementation == "tunewise_training"
    for one, other in zip(free, stopped, strict=True):
        length = one.continuation.index(end) + 1 if end in one.continuation else 8
        assert other.continuation == one.continuation[:length]
    assert len(stopped[0].continuation) <= 3


def test_what_agrees_is_told_in_figures() -> None:
    readings = [Reading(7, -0.52, -0.52), Reading(9, -0.96, -0.98)]
    found = require_parity([RECORDED], [readings], ALLOWED, what="it", decode=decode)
    assert (found.prompts, found.tokens, found.near_ties) == (1, 2, 1)
    assert (found.widest_logprob, found.widest_tie) == pytest.approx((0.02, 0.02))


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (Reading(8, -1.2, -1.2), "off by more than allowed"),
        (Reading(9, -0.9, -0.99), "another token is likelier by more than a near tie"),
        (Reading(9, float("nan"), float("nan")), "not a number"),
        (Reading(9, -0.1, -float("inf")), "not among the likeliest"),
    ],
)
def test_what_differs_is_refused_with_prompt_place_and_both_tokens(second: Reading, why: str) -> None:
    right = Reading(7, -0.5, -0.5)
    readings = [[right, Reading(8, -1.0, -1.0)], [right, second]]
    with pytest.raises(ModelError) as refused:
        require_parity([RECORDED, RECORDED], readings, ALLOWED, what="the export", decode=decode)
    assert refused.value.code == "parity_failed", why
    named = ("the export: prompt 2 of 2", "text of (5, 6)", "token 2 of the answer", "with 8", f"and {second.token}")
    for part in named:
        assert part in refused.value.message


def test_the_loosest_of_all_that_was_at_work_is_allowed() -> None:
    assert tolerance("float32", "float32") == TOLERANCES["float32"]
    assert tolerance("f16", "bfloat16") == TOLERANCES["bfloat16"]
    assert tolerance("float32", "q8_0") == TOLERANCES["q8_0"]


def test_nothing_recorded_is_nothing_and_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    assert read_parity(tmp_path) is None
    file = tmp_path / "parity.json"
    parity = Parity(dtype="float32", prompts=(RECORDED,))
    file.write_text(parity.model_dump_json())
    assert read_parity(tmp_path) == parity
    damaged = (file.read_text()[:-9], parity.model_dump_json().replace("[-0.5,-1.0]", "[-0.5]"), '{"prompts": []}')
    for text in damaged:
        file.write_text(text)
        with pytest.raises(ModelError, match=r"parity\.json cannot be used.*take it away") as refused:
            read_parity(tmp_path)
        assert refused.value.code == "unreadable_parity"
