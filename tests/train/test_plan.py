"""The batch plan is a pure function, and splitting a step into parts loses no row."""

from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tunewise.train.plan import epoch_order, parts, share, step_rows, steps_per_epoch, validation_sample

lengths_lists = st.lists(st.integers(1, 3000), min_size=1, max_size=60)


@given(st.integers(1, 200), st.integers(1, 33), st.integers(0, 2**31 - 1), st.integers(0, 3))
def test_each_epoch_sees_every_row_once(rows: int, batch: int, seed: int, epoch: int) -> None:
    steps = steps_per_epoch(rows, batch)
    taken = [row for n in range(steps) for row in step_rows(rows, batch, seed=seed, step=epoch * steps + n)]
    assert taken == epoch_order(rows, seed=seed, epoch=epoch)
    assert sorted(taken) == list(range(rows))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(epoch_order(50, seed=seed, epoch=epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_the_order_of_a_seed_is_the_same_for_ever() -> None:
    assert epoch_order(8, seed=42, epoch=0) == [7, 0, 4, 2, 1, 3, 5, 6]


@given(lengths_lists, st.integers(1, 2048))
def test_parts_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    by_row = dict(enumerate(lengths))
    made = parts(list(by_row), lambda row, _: by_row[row], budget)
    assert sorted(row for part in made for row in part) == list(by_row)
    assert all(len(part) == 1 or sum(lengths[row] for row in part) <= budget for part in made)


@given(lengths_lists, st.randoms())
def test_parts_do_not_depend_on_the_order_within_a_step(lengths: list[int], chance: Random) -> None:
    by_row = dict(enumerate(lengths))
    shuffled = list(by_row)
    chance.shuffle(shuffled)

    def cost(row: int, others: Sequence[int]) -> int:
        return by_row[row]

    assert parts(shuffled, cost) == parts(list(by_row), cost)


def test_what_units_share_does_not_count_against_the_budget() -> None:
    def cost(unit: int, others: Sequence[int]) -> int:
        return 120 if others else 720

    assert parts(range(8), cost, 1024) == [list(range(8))]
    assert len(parts(range(8), lambda unit, others: 720, 1024)) == 8


def test_the_validation_sample_is_fixed() -> None:
    assert validation_sample(100, 5, seed=1) == validation_sample(100, 5, seed=1)
    assert validation_sample(3, 5, seed=1) == [0, 1, 2]


@given(lengths_lists, st.integers(1, 5))
def test_processes_share_a_step_without_gap_or_overlap(lengths: list[int], size: int) -> None:
    given = dict(enumerate(lengths))
    shares = [share(range(len(lengths)), given, rank=rank, size=size) for rank in range(size)]
    assert sorted(row for taken in shares for row in taken) == list(range(len(lengths)))
    held = [sum(lengths[row] for row in taken) for taken in shares]
    assert max(held) - min(held) <= max(lengths)
