"""Who is let in next: models take turns, and a full house is shared among them."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tunewise.contracts.run import BaseModelRef
from tunewise.errors import ServingError
from tunewise.serve.generation import Event, Finished, Generation, Sampling
from tunewise.serve.kv import KvShape, Pools
from tunewise.serve.local import LIMITS, LocalEngine
from tunewise.serve.prefix import PrefixCache
from tunewise.serve.scheduler import Limits, Scheduler
from tunewise.serve.sequences import Choice, Prompt, Ticket

SHAPE = KvShape(1, 1, 4, torch.float32)
GREEDY = Sampling(0.0, 1.0, 0)


def make(running: int, kv_bytes: int = 1 << 30) -> Scheduler:
    limits = Limits(
        running=running, waiting=1000, prompt_tokens=256, kv_bytes=kv_bytes, prefix_bytes=0, adapter_bytes=0
    )
    return Scheduler(limits, SHAPE, PrefixCache(0), Pools(SHAPE))


def ticket(number: int, adapter: int, n: int = 1, max_tokens: int = 20) -> Ticket:
    generation = Generation(tuple(range(number, number + 3)), None, n, max_tokens, GREEDY)
    return Ticket.issue(number, generation, adapter)


def step(scheduler: Scheduler) -> list[Ticket]:
    """Plan and compute a step; gives the requests that it started. Their answers run from then on."""
    chunks = scheduler.plan().chunks
    started = [chunk.prompt for chunk in chunks if scheduler.computed(chunk)]
    for prompt in started:
        run(scheduler, prompt)
    return [prompt.ticket for prompt in started]


def run(scheduler: Scheduler, prompt: Prompt) -> None:
    for index in range(prompt.ticket.generation.n):
        scheduler.run(Choice.open(prompt.ticket, index, str), prompt)


def stop_oldest(scheduler: Scheduler, adapter: int) -> None:
    scheduler.stop(next(one for one in scheduler.choices.values() if one.ticket.adapter == adapter))


def started_after(scheduler: Scheduler, adapters: Sequence[int]) -> list[int]:
    """Which models' requests start as one answer after the other of `adapters` ends."""
    started = []
    for adapter in adapters:
        stop_oldest(scheduler, adapter)
        started += [one.adapter for one in step(scheduler)]
    return started


def test_one_request_is_not_starved_by_500_of_another_model() -> None:
    scheduler = make(running=8)
    for number in range(500):
        scheduler.add(ticket(number, adapter=0))
    assert len(step(scheduler)) == 8
    scheduler.add(ticket(1000, adapter=1))
    assert step(scheduler) == []
    assert started_after(scheduler, [0, 0]) == [1, 0]


def test_places_are_shared_evenly_among_models_with_requests_waiting() -> None:
    scheduler = make(running=9)
    for number in range(100):
        scheduler.add(ticket(number, adapter=0))
    step(scheduler)
    for number in range(100):
        scheduler.add(ticket(100 + number, adapter=1))
        scheduler.add(ticket(200 + number, adapter=2))
    started = started_after(scheduler, [0] * 6)
    assert Counter(started) == {1: 3, 2: 3}
    assert Counter(one.ticket.adapter for one in scheduler.choices.values()) == {0: 3, 1: 3, 2: 3}
    assert set(started_after(scheduler, [2, 1, 0, 1])) == {0, 1, 2}  # each place goes to the model that lost one
    assert Counter(one.ticket.adapter for one in scheduler.choices.values()) == {0: 3, 1: 3, 2: 3}


def test_answers_count_not_requests() -> None:
    scheduler = make(running=8)
    scheduler.add(ticket(0, adapter=0, n=6))
    step(scheduler)
    for number in range(1, 4):
        scheduler.add(ticket(number, adapter=0))
        scheduler.add(ticket(10 + number, adapter=1))
    assert [one.adapter for one in step(scheduler)] == [1, 1]


def test_within_a_model_requests_start_in_the_order_of_their_arrival() -> None:
    scheduler = make(running=4)
    for number in (5, 3, 9, 1):
        scheduler.add(ticket(number, adapter=number % 2))
        scheduler.add(ticket(20 + number, adapter=7))
    started = [one.number for one in step(scheduler)]
    while scheduler.waiting:
        stop_oldest(scheduler, next(iter(scheduler.choices.values())).ticket.adapter)
        started += [one.number for one in step(scheduler)]
    assert [one for one in started if one < 20] == [5, 3, 9, 1]
    assert [one for one in started if one >= 20] == [25, 23, 29, 21]


def test_a_request_that_does_not_fit_is_waited_for() -> None:
    per_token = SHAPE.bytes_per_token()
    scheduler = make(running=8, kv_bytes=300 * per_token)
    scheduler.add(ticket(0, adapter=0, max_tokens=200))
    step(scheduler)
    scheduler.add(ticket(1, adapter=1, max_tokens=200))
    scheduler.add(ticket(2, adapter=0, max_tokens=10))
    assert step(scheduler) == []
    assert started_after(scheduler, [0]) == [1, 0]


def test_a_cancelled_request_leaves_its_queue() -> None:
    scheduler = make(running=1)
    for number in range(3):
        scheduler.add(ticket(number, adapter=number))
    step(scheduler)
    for number in (2, 1, 0):
        assert scheduler.cancel(number) is not None
    assert scheduler.cancel(1) is None
    assert scheduler.idle()
    assert scheduler.tickets() == []


def test_a_model_with_nothing_under_way_is_let_in_to_a_full_queue(
    tiny_model: BaseModelRef, adapters: dict[str, Path]
) -> None:
    with LocalEngine(tiny_model.path, torch.float32, LIMITS._replace(running=2, waiting=3)) as local:
        local.engine.load_adapter("all", adapters["all"])
        long = Generation((5, 6, 7), None, 1, 400, GREEDY, ignore_eos=True)
        short = long._replace(adapter="all", max_tokens=4)
        numbers = [local.engine.submit(long) for _ in range(5)]
        with pytest.raises(ServingError, match="limit"):
            local.engine.submit(long)
        other = local.engine.submit(short)
        with pytest.raises(ServingError, match="limit"):
            local.engine.submit(short)
        ends = order_of_ends(local, [*numbers, other])
    assert ends.index(other) <= 2  # behind two that were running at most, before those that waited


def order_of_ends(local: LocalEngine, numbers: list[int]) -> list[int]:
    ends: list[int] = []
    deadline = time.monotonic() + 60
    while len(ends) < len(numbers):
        assert time.monotonic() < deadline
        events: list[tuple[int, Event]] = local.next_events()
        ends += [number for number, event in events if isinstance(event, Finished)]
    return ends
