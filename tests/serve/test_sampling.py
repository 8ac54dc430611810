"""Sampling follows the distribution, the nucleus and the seed."""

import math
from collections import Counter

import pytest
import torch

from tunewise.serve.sampling import NUCLEUS_CANDIDATES, Draw, generator, logprobs, sample

LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1]))


def frequencies(temperature: float, top_p: float, count: int = 4000) -> dict[int, float]:
    draws = [Draw(temperature, top_p, generator(11, 0))] * count
    drawn = Counter(sample(LOGITS.expand(count, -1), draws))
    return {token: drawn[token] / count for token in range(4)}


def test_frequencies_follow_the_probabilities() -> None:
    assert frequencies(1.0, 1.0) == pytest.approx({0: 0.5, 1: 0.25, 2: 0.15, 3: 0.1}, abs=0.03)


def test_temperature_sharpens() -> None:
    squares = [0.25, 0.0625, 0.0225, 0.01]
    expected = {token: square / sum(squares) for token, square in enumerate(squares)}
    assert frequencies(0.5, 1.0) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, {0}), (0.5, {0}), (0.6, {0, 1}), (0.8, {0, 1, 2})])
def test_only_the_nucleus_is_drawn(top_p: float, kept: set[int]) -> None:
    seen = {token for token, share in frequencies(1.0, top_p).items() if share}
    assert seen == kept


def test_a_nucleus_wider_than_the_candidates_is_exact() -> None:
    flat = torch.zeros(1, 4 * NUCLEUS_CANDIDATES)
    noise = generator(1, 0)
    drawn = [sample(flat, [Draw(1.0, 0.5, noise)])[0] for _ in range(4000)]
    assert NUCLEUS_CANDIDATES < len(set(drawn)) <= 2 * NUCLEUS_CANDIDATES


def test_zero_temperature_and_a_tiny_one_are_greedy() -> None:
    assert sample(LOGITS.expand(2, -1), [Draw(0.0, 1.0, None), Draw(1e-6, 1.0, generator(1, 0))]) == [0, 0]


def draws(count: int) -> list[Draw]:
    kinds = [(0.0, 1.0), (1.0, 1.0), (0.8, 0.7)]
    return [Draw(*kinds[place % 3], generator(2, place)) for place in range(count)]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    rows = torch.randn(6, 1000, generator=torch.Generator().manual_seed(3))
    together = sample(rows, draws(6))
    assert together == [sample(rows[place : place + 1], [draw])[0] for place, draw in enumerate(draws(6))]


def test_rounding_of_the_logits_does_not_change_what_is_drawn() -> None:
    rows = torch.randn(64, 20_000, generator=torch.Generator().manual_seed(4))
    nudged = rows * (1 + 1e-7 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(5)))
    assert sample(rows, draws(64)) == sample(nudged, draws(64))


def test_logprobs_come_with_the_most_probable_first() -> None:
    [(own, top)] = logprobs(LOGITS[None], [2], 2)
    assert own == pytest.approx(math.log(0.15))
    assert [token for token, _ in top] == [0, 1]
