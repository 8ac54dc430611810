"""tunewise.yaml: what is accepted, and what each mistake is told."""

from pathlib import Path

import pytest

from tunewise.errors import ConfigError
from tunewise.jobs.config_file import load_config
from tunewise.jobs.lab import with_engine
from tunewise.settings import OpenAIEngine, Settings, VllmEngine

GOOD = """
data: {train: a/train.jsonl, test: ~/test.jsonl}
graders: [{name: exact, type: exact_match}]
"""


def write(directory: Path, text: str) -> Path:
    path = directory / "tunewise.yaml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    data = load_config(write(tmp_path, GOOD)).data
    assert data.train == tmp_path / "a" / "train.jsonl"
    assert data.test == Path.home() / "test.jsonl"


def test_a_run_may_name_its_engine_else_it_is_the_machine_s(tmp_path: Path) -> None:
    machine = Settings(engine=VllmEngine(kind="vllm"))
    named = load_config(write(tmp_path, GOOD + "engine: {kind: openai, base_url: 'http://gpu/v1'}"))
    assert with_engine(named, machine).engine == OpenAIEngine(kind="openai", base_url="http://gpu/v1")
    assert with_engine(load_config(write(tmp_path, GOOD)), machine).engine == machine.engine


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("data: [", "invalid_yaml", "not YAML"),
        ("just text", "invalid_config", "expected fields"),
        (GOOD + "modle: x", "invalid_config", "did you mean 'model'?"),
        (GOOD + "zzz: 1", "invalid_config", "zzz: unknown field; remove it"),
        ("graders: [{name: e, type: exact_match}]", "invalid_config", "data: missing"),
        (GOOD + "evaluation: {temperature: 3}", "invalid_config", "evaluation.temperature"),
        (GOOD.replace("exact_match", "magic"), "invalid_config", "'exact_match'"),
        (GOOD.replace("]", ", {name: exact, type: label}]"), "duplicate_grader", "share a name"),
        (GOOD.replace("]", ", {name: other, type: label}]"), "primary_grader", "0 of 2"),
        (GOOD + "arms: {prompt: [{name: tuned}]}", "duplicate_arm", "'tuned'"),
        (GOOD + "training: {method: {type: ppo}}", "invalid_config", "training.method.type"),
        (GOOD + "training: {method: {type: dpo, supervised: {}}}", "invalid_config", "leave supervised out"),
        (GOOD + "training: {method: {dpo: {hyperparameters: {beta: 3}}, type: dpo}}", "invalid_config", "beta"),
        (GOOD + "training: {early_stopping_patience: 1}", "early_stopping_needs_validation", "a validation file"),
        (GOOD + "training: {weights: full, lora: {rank: 8}}", "conflicting_parameters", "training.lora: weights"),
        (GOOD + "engine: {kind: llama}", "invalid_config", "engine: Input tag 'llama'"),
        (GOOD + "arms: {retrieval: {by: magic}}", "invalid_config", "arms.retrieval.by"),
        (GOOD + "training: {parent_use: stack}", "conflicting_parameters", "the model is a base model"),
    ],
)
def test_each_mistake_is_named(tmp_path: Path, text: str, code: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")) as raised:
        load_config(write(tmp_path, text))
    assert raised.value.code == code


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 problem") as raised:
        load_config(write(tmp_path, GOOD + "modle: x\nevaluation: {concurrency: 0}"))
    assert "modle" in raised.value.message
    assert "evaluation.concurrency" in raised.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "absent.yaml")


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "tunewise.yaml").write_bytes(b"model: \xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "tunewise.yaml")
