"""Options that do not go together, and the same options where they do."""

import sys
from typing import Any

import pytest

from tunewise.contracts.fine_tuning import TrainingOptions
from tunewise.jobs.conflicts import conflict

PARENT = "ft:base:org::1"
CONFLICTS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"early_stopping_patience": 1}, {"has_validation": False}, "early_stopping_patience"),
    ({"sharding": "fsdp"}, {}, "sharding"),
    ({"sharding": "fsdp", "processes": 2, "weights": "full"}, {}, "sharding"),
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


def test_a_tracker_without_its_package_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = TrainingOptions(trackers=("tensorboard", "wandb"))
    assert conflict(asked, has_validation=True, parent=None) is None
    monkeypatch.setitem(sys.modules, "wandb", None)
    found = conflict(asked, has_validation=True, parent=None)
    assert found is not None
    assert (found.code, found.option) == ("tracker_unavailable", "trackers")
    assert "pip install 'tunewise[wandb]'" in found.message


@pytest.mark.parametrize(("options", "around"), FITTING)
def test_options_that_go_together_are_left_alone(options: dict[str, Any], around: dict[str, Any]) -> None:
    assert conflict(TrainingOptions(**options), **{"has_validation": True, "parent": None} | around) is None
