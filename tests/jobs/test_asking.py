"""Asking the arms: what they need is there before the first is asked, and only what was trained is hosted."""

from pathlib import Path

import pytest
from rich.console import Console

from evaluate.finished_run import RECIPES, run_config
from evaluate.making import example, row, write_jsonl
from tunewise.cli.watch import JsonWatcher
from tunewise.contracts.config import ArmsConfig, Endpoint, PromptArm, RetrievalArm
from tunewise.contracts.run import BaseModelRef
from tunewise.data.template import Template
from tunewise.errors import ConfigError, DataError, ModelError
from tunewise.jobs.arms import ask_tuned, check_arms, local_arms
from tunewise.jobs.lab import Lab
from tunewise.jobs.weights import TunedWeights
from tunewise.machine import Machine


@pytest.fixture
def lab(tmp_path: Path, smollm2: BaseModelRef) -> Lab:
    return Lab(
        config=run_config(RECIPES),
        title="recipes",
        tuned_name="ft:smollm2::recipes",
        origin={},
        base=smollm2,
        template=Template.load(smollm2.path),
        machine=Machine(name="cpu", cores=2, memory_bytes=8 << 30, bfloat16=False, gflops=100.0),
        dtype="float32",
        versions={},
        remedy="",
        directory=tmp_path / "runs",
        watcher=JsonWatcher(Console(quiet=True)),
    )


def test_an_adapter_that_is_not_the_trained_one_is_never_hosted(lab: Lab, tmp_path: Path) -> None:
    directory = tmp_path / "train-1" / "adapter"
    directory.mkdir(parents=True)
    (directory / "adapter_model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ModelError, match="training wrote 0000"):
        ask_tuned(lab, [row("a")], [example("q", "a")], TunedWeights(directory, "0" * 64))
    assert not (lab.directory / "serve").exists()


def paid(name: str, key: str | None) -> PromptArm:
    """An arm on a paid API whose key is in the environment variable `key`."""
    endpoint = Endpoint(
        base_url=f"https://{name}/v1",
        model="m",
        api_key_env=key,
        price_per_million_prompt_tokens=1,
        price_per_million_completion_tokens=1,
    )
    return PromptArm(name=name, endpoint=endpoint)


def test_every_paid_arm_has_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_KEY", "k")
    monkeypatch.delenv("SECOND_KEY", raising=False)
    check_arms(ArmsConfig(prompt=(paid("first", "FIRST_KEY"), paid("keyless", None))))
    with pytest.raises(ConfigError, match=r"second/v1 needs a key.* SECOND_KEY is not set") as raised:
        check_arms(ArmsConfig(prompt=(paid("first", "FIRST_KEY"), paid("second", "SECOND_KEY"))))
    assert raised.value.code == "missing_key"


def test_every_document_has_a_text(tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", [{"text": "a"}])
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"text": "a"}, {"title": "b"}])
    check_arms(ArmsConfig(retrieval=RetrievalArm(documents=good)))
    for documents, says in ((bad, "line 2: a document needs"), (tmp_path / "absent.jsonl", "No such file")):
        with pytest.raises(DataError, match=says):
            check_arms(ArmsConfig(retrieval=RetrievalArm(documents=documents)))


def test_where_plain_text_is_trained_on_it_is_looked_up_and_no_example_is_shown(lab: Lab, tmp_path: Path) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": "Rye is ground at Thornby."}, {"text": "Owls sleep."}])
    config = lab.config.model_copy(update={"data": lab.config.data.model_copy(update={"train": texts})})
    asked = {arm.arm: arm for arm in local_arms(lab._replace(config=config), [row("Where is rye ground?")], [])}
    assert set(asked) == {"prompt", "retrieval"}
    assert asked["retrieval"].settings["source"] == "texts.jsonl"
    assert "Rye is ground at Thornby." in str(asked["retrieval"].requests[0].messages)
