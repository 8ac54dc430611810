"""Learning rates equal those of `transformers`, but for a warm-up that does not begin at nothing."""

import pytest
import torch
from transformers import get_scheduler

from tunewise.contracts.fine_tuning import Schedule
from tunewise.train.schedule import learning_rate


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_without_warm_up_the_rates_are_transformers(schedule: Schedule) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    theirs = get_scheduler(schedule, optimizer, num_warmup_steps=0, num_training_steps=20)
    for step in range(20):
        ours = learning_rate(step, 20, peak=0.3, schedule=schedule, warmup_ratio=0.0)
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_every_step_learns_and_none_exceeds_the_peak(schedule: Schedule, steps: int) -> None:
    rates = [learning_rate(n, steps, peak=0.3, schedule=schedule, warmup_ratio=0.1) for n in range(steps)]
    assert all(0 < rate <= 0.3 for rate in rates)


def test_warm_up_climbs_to_the_peak() -> None:
    rates = [learning_rate(n, 40, peak=1.0, schedule="linear", warmup_ratio=0.1) for n in range(6)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] < 1.0
