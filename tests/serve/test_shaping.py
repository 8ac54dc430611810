"""Penalties and bias follow OpenAI's formula; who asks for none gets the model's own distribution."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tunewise.contracts.run import BaseModelRef
from tunewise.serve.generation import Generation, Sampling
from tunewise.serve.local import LocalEngine, Result
from tunewise.serve.shaping import Offsets, Shape, shape

VOCABULARY = 50
PROMPT = tuple(range(20_000, 20_030))


@pytest.fixture(scope="module")
def local(tiny_model: BaseModelRef) -> Iterator[LocalEngine]:
    with LocalEngine(tiny_model.path, torch.float32) as running:
        yield running


def by_formula(
    logits: Tensor, bias: dict[int, float], written: Sequence[int], frequency: float, presence: float
) -> Tensor:
    """As OpenAI has it: mu[j] - c[j] · alpha_frequency - (c[j] > 0) · alpha_presence, and the bias added."""
    expected = logits.clone()
    for token, value in bias.items():
        expected[token] += value
    for token, count in Counter(written).items():
        expected[token] -= count * frequency + presence
    return expected


@pytest.mark.parametrize(
    ("frequency", "presence"), [(0.0, 0.0), (0.7, 0.0), (0.0, 1.5), (-0.5, 2.0), (1.0, -1.0), (-1.0, 1.0)]
)
def test_offsets_follow_the_formula(frequency: float, presence: float) -> None:
    numbers = random.Random(3)
    plain = torch.randn(4, VOCABULARY)
    written = [[numbers.randrange(VOCABULARY) for _ in range(length)] for length in (0, 5, 200)]
    biases = [{}, {3: -100.0, 7: 2.5}, {written[2][0]: 1.0}]
    offsets = [Offsets(bias.items(), frequency, presence) for bias in biases]
    for one, tokens in zip(offsets, written, strict=True):
        for token in tokens:
            one.take(token)
    shaped = plain.clone()
    shape(shaped, [Shape(offsets[0], None), Shape(None, None), Shape(offsets[1], None), Shape(offsets[2], None)])
    assert torch.equal(shaped[1], plain[1])
    for row, which in ((0, 0), (2, 1), (3, 2)):
        expected = by_formula(plain[row], biases[which], written[which], frequency, presence)
        torch.testing.assert_close(shaped[row], expected, atol=1e-4, rtol=0)


def tokens(result: Result) -> list[int]:
    return [item.token for item in result.logprobs[0]]


def asked(sampling: Sampling, count: int = 24) -> Generation:
    return Generation(PROMPT, None, 1, count, sampling, top_logprobs=2, ignore_eos=True)


def test_greedy_answers_with_penalties_equal_a_plain_loop_over_transformers(
    tiny_model: BaseModelRef, local: LocalEngine
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model.path, dtype=torch.float32)
    settings = [(0.0, 0.0), (0.1, 0.0), (2.0, 1.0), (-0.5, -0.5)]
    expected = []
    for frequency, presence in settings:
        written: list[int] = []
        for _ in range(12):
            with torch.inference_mode():
                logits = model(torch.tensor([[*PROMPT, *written]])).logits[0, -1]
            written.append(int(by_formula(logits, {}, written, frequency, presence).argmax()))
        expected.append(written)
    results = local.generate([asked(Sampling(0.0, 1.0, 0, *setting), 12) for setting in settings])
    assert [tokens(result) for result in results] == expected
    assert len({tuple(row) for row in expected}) >= 3  # the penalties do change the answers
    assert len(set(expected[2])) == 12
    assert len(set(expected[3])) == 1


def test_a_bias_bans_and_forces_tokens(local: LocalEngine) -> None:
    plain = tokens(local.generate([asked(Sampling(0.0, 1.0, 0))])[0])
    banned = tuple((token, -100.0) for token in set(plain))
    assert not set(tokens(local.generate([asked(Sampling(1.0, 1.0, 5, bias=banned))])[0])) & set(plain)
    assert set(tokens(local.generate([asked(Sampling(1.0, 1.0, 5, bias=((17, 100.0),)))])[0])) == {17}


def test_logprobs_are_the_models_own_whatever_shapes_the_choice(tiny_model: BaseModelRef, local: LocalEngine) -> None:
    result = local.generate([asked(Sampling(0.8, 0.9, 3, 1.0, 1.0, ((17, 30.0),)))])[0]
    model = AutoModelForCausalLM.from_pretrained(tiny_model.path, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([[*PROMPT, *tokens(result)]])).logits[0, len(PROMPT) - 1 : -1]
    expected = logits.log_softmax(dim=-1)
    for place, item in enumerate(result.logprobs[0]):
        assert item.logprob == pytest.approx(float(expected[place, item.token]), abs=1e-4)
        assert [token for token, _ in item.top] == expected[place].topk(2).indices.tolist()


def test_a_seed_gives_the_same_answer_among_others_that_are_shaped_otherwise(local: LocalEngine) -> None:
    drawn = asked(Sampling(1.2, 0.95, 9, 0.5, 0.5, ((40, 1.0),)))._replace(n=2)
    others = [asked(Sampling(1.0, 1.0, seed, seed / 10, 0.0, ((seed, 3.0),))) for seed in range(12)]
    alone = local.generate([drawn])[0]
    crowded = local.generate([*others[:6], drawn, *others[6:]])[6]
    assert alone.texts == crowded.texts
    plain = local.generate([asked(Sampling(1.2, 0.95, 9))])[0]
    assert plain.texts == local.generate([*others, asked(Sampling(1.2, 0.95, 9))])[-1].texts
