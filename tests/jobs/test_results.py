"""Result files: the columns of each dialect, from the same numbers."""

import pytest

from tunewise.contracts.run import REWARD_METRICS
from tunewise.jobs.results import DIALECTS, Dialect, extra_columns, result_csv, result_file_id

METRICS: list[dict[str, float | int | None]] = [
    {
        "step": 1,
        "total_steps": 2,
        "train_loss": 0.1234567,
        "train_mean_token_accuracy": 0.5,
        "valid_loss": None,
        "valid_mean_token_accuracy": None,
        "full_valid_loss": None,
        "full_valid_mean_token_accuracy": None,
    },
    {
        "step": 2,
        "total_steps": 2,
        "train_loss": 0.1,
        "train_mean_token_accuracy": 0.6,
        "valid_loss": 0.2,
        "valid_mean_token_accuracy": 0.7,
        "full_valid_loss": 0.3,
        "full_valid_mean_token_accuracy": 0.8,
    },
]
OPENAI = """step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy
1,0.12346,0.5,,
2,0.1,0.6,0.2,0.7
"""
AZURE = """step,train_loss,train_mean_token_accuracy,valid_loss,valid_mean_token_accuracy,full_valid_loss,full_valid_mean_token_accuracy
1,0.12346,0.5,,,,
2,0.1,0.6,0.2,0.7,0.3,0.8
"""  # noqa: E501


@pytest.mark.parametrize(("dialect", "table"), [("openai", OPENAI), ("azure", AZURE)])
def test_each_dialect_has_its_own_columns(dialect: Dialect, table: str) -> None:
    assert result_csv(METRICS, dialect) == table


def test_the_two_files_of_a_job_are_two() -> None:
    assert result_file_id("ftjob-1", "openai") != result_file_id("ftjob-1", "azure")


def test_a_preference_job_s_rewards_have_columns_of_their_own_in_both_dialects() -> None:
    steps: list[dict[str, float | int | None]] = [METRICS[0], METRICS[1] | {"train_reward_margin": 0.25}]
    for dialect in DIALECTS:
        plain = result_csv(steps, dialect).splitlines()
        told = result_csv(steps, dialect, extra_columns("dpo")).splitlines()
        assert told[0] == ",".join([plain[0], *REWARD_METRICS])
        assert told[1] == plain[1] + "," * len(REWARD_METRICS)
        assert told[2].split(",")[told[0].split(",").index("train_reward_margin")] == "0.25"


def test_of_plain_text_the_bits_per_byte_are_a_column() -> None:
    assert extra_columns("pretraining") == ("full_valid_bits_per_byte",)
    assert extra_columns("supervised") == ()
