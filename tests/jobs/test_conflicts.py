"""Options that do not go together, and the same options where they do."""

from typing import Any

import pytest

from tunewise.contracts.fine_tuning import TrainingOptions
from tunewise.jobs.conflicts import conflict

PARENT = "ft:base:org::1"
CONFLICTS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"early_stopping_patience": 1}, {"has_validation": False}, "early_stopping_patience"),
    ({"sharding": "fsdp"}, {}, "sharding"),
    ({"weights": "full", "lora": {"dora": True}}, {}, "lora"),
    ({"weights": "full", "dtype": "bfloat16"}, {}, "dtype"),
    ({"weights": "full", "sharding": "fsdp", "processes": 2}, {}, "sharding"),
    ({"weights": "full", "parent_use": "stack"}, {"parent": PARENT}, "parent_use"),
    ({"weights": "qlora", "lora": {"init": "pissa"}}, {}, "weights"),
    ({"weights": "qlora", "parent_use": "stack"}, {"parent": PARENT}, "weights"),
    ({"lora": {"dora": True}, "parent_use": "stack"}, {"parent": PARENT}, "lora"),
    ({"lora": {"dora": True, "init": "pissa", "dropout": 0.1}}, {}, "lora"),
    ({"parent_use": "stack"}, {}, "parent_use"),
    ({"lora": {"rank": 4}}, {"parent": PARENT}, "lora"),
]
FITTING: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"has_validation": False}),
    ({"early_stopping_patience": 1}, {}),
    ({"sharding": "fsdp", "processes": 2}, {}),
    ({"weights": "full"}, {}),
    ({"weights": "full"}, {"parent": PARENT}),
    ({"weights": "full", "top_layers": 2}, {}),
    ({"lora": {"dora": True, "init": "pissa"}}, {}),
    ({"lora": {"init": "olora", "rank_stabilized": True}, "parent_use": "stack"}, {"parent": PARENT}),
    ({"parent_use": "stack", "lora": {"rank": 4}}, {"parent": PARENT}),
    ({"lora": {"plus_ratio": 16}}, {"parent": PARENT}),
]


@pytest.mark.parametrize(("options", "around", "named"), CONFLICTS)
def test_a_conflict_is_told_by_the_option_that_is_to_go(
    options: dict[str, Any], around: dict[str, Any], named: str
) -> None:
    found = conflict(TrainingOptions(**options), **{"has_validation": True, "parent": None} | around)
    assert found is not None
    assert found.option == named
    assert "leave" in found.message


@pytest.mark.parametrize(("options", "around"), FITTING)
def test_options_that_go_together_are_left_alone(options: dict[str, Any], around: dict[str, Any]) -> None:
    assert conflict(TrainingOptions(**options), **{"has_validation": True, "parent": None} | around) is None
