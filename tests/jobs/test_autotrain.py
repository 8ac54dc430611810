"""AutoTrain's files: every key is accounted for, and none of a token's letters comes out again."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunewise.contracts.autotrain import KeyFate, Prepared
from tunewise.contracts.fine_tuning import TrainingRequest
from tunewise.errors import ConfigError, DataError
from tunewise.jobs.autotrain import RULES, is_autotrain, suffix_of, translate
from tunewise.jobs.autotrain_run import prepare
from tunewise.jobs.config_file import load_config, read_yaml
from tunewise.planning import DEFAULT_BETA, base_learning_rate
from tunewise.settings import Settings

TOKEN = "hf_" + "NeverToBeSeenAgain"
FILE = f"""\
task: llm-sft
base_model: ${{MY_BASE}}
project_name: team/Colour run
log: tensorboard
backend: local

data:
  path: rows
  train_split: train
  valid_split: null
  chat_template: tokenizer
  column_mapping:
    text_column: messages

params:
  block_size: 512
  model_max_length: 2048
  epochs: 2
  batch_size: 2
  lr: 1e-4
  peft: true
  quantization: int4
  target_modules: q_proj, v_proj
  padding: right
  optimizer: paged_adamw_8bit
  scheduler: cosine
  gradient_accumulation: 3
  mixed_precision: bf16
  merge_adapter: true
  epoch: 3

hub:
  username: ${{NOT_SET_ANYWHERE}}
  token: {TOKEN}
  push_to_hub: true
"""
COLOURS = ("red", "green", "blue", "amber", "white", "black")


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    def row(number: int) -> dict[str, Any]:
        colour = COLOURS[number % len(COLOURS)]
        asked = {"role": "user", "content": f"Which colour has ball number {number}, painted {colour}?"}
        return {"messages": [asked, {"role": "assistant", "content": colour}]}

    return [row(number) for number in range(first, first + count)]


def write_rows(path: Path, wanted: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in wanted))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MY_BASE", "smollm2-135m-instruct")
    write_rows(tmp_path / "rows" / "train.jsonl", rows(60))
    write_rows(tmp_path / "rows" / "validation.jsonl", rows(12, first=200))
    path = tmp_path / "config.yml"
    path.write_text(FILE)
    return path


def prepared(file: Path, settings: Settings) -> Prepared:
    return prepare(translate(read_yaml(file), file), file, None, settings)


def changed(file: Path, old: str, new: str) -> Path:
    assert old in FILE
    file.write_text(FILE.replace(old, new))
    return file


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def fates(keys: tuple[KeyFate, ...]) -> dict[str, str]:
    return {key.key: key.fate for key in keys}


def test_the_equivalent_config_has_what_the_file_says(file: Path, settings: Settings) -> None:
    config = load_config(prepared(file, settings).config)
    hyper = config.training.method.hyperparameters
    assert (config.model, config.suffix) == ("smollm2-135m-instruct", "Colour-run")
    assert (hyper.n_epochs, hyper.batch_size, hyper.learning_rate_multiplier) == (2, 6, 0.1)
    assert (config.training.schedule, config.training.dtype) == ("cosine", "auto")
    assert config.training.lora.targets == ("q_proj", "v_proj")
    assert (config.data.max_tokens, config.data.overlong) == (512, "truncate")
    assert [grader.type for grader in config.graders] == ["label"]


def test_what_the_file_leaves_out_is_autotrains_default_and_said_to_be(file: Path, settings: Settings) -> None:
    result = prepared(file, settings)
    training = load_config(result.config).training
    assert (training.lora.rank, training.lora.alpha, training.lora.dropout) == (16, 32, 0.05)
    assert training.warmup_ratio == 0.1
    assert fates(result.keys)["params.lora_dropout"] == "default"


def test_every_key_of_the_file_is_accounted_for(file: Path, settings: Settings) -> None:
    found = fates(prepared(file, settings).keys)
    content = yaml.safe_load(FILE)
    sections = {name: content.pop(name) for name in ("data", "params", "hub")}
    mapping = sections["data"].pop("column_mapping")
    wanted = set(content) | {f"data.column_mapping.{name}" for name in mapping}
    wanted |= {f"{section}.{name}" for section, keys in sections.items() for name in keys}
    assert wanted <= found.keys()
    assert found["params.epochs"] == "used"
    assert found["params.lr"] == "translated"
    assert found["params.quantization"] == found["params.epoch"] == "no counterpart"


@pytest.mark.parametrize("place", ["hub", "params"])
def test_a_token_is_written_nowhere(file: Path, settings: Settings, place: str) -> None:
    if place == "params":
        changed(file, f"  token: {TOKEN}\n", "").write_text(
            file.read_text().replace("params:\n", f"params:\n  token: {TOKEN}\n")
        )
    assert TOKEN in file.read_text()
    result = prepared(file, settings)
    assert TOKEN not in result.model_dump_json()
    written = [path for path in result.directory.rglob("*") if path.is_file()]
    assert len(written) == 3
    assert [path for path in written if TOKEN in path.read_text()] == []


def test_a_file_that_is_no_yaml_is_refused_without_its_lines(file: Path) -> None:
    file.write_text(FILE.replace(f"token: {TOKEN}", f"token: [{TOKEN}"))
    with pytest.raises(ConfigError, match="not YAML") as refused:
        read_yaml(file)
    assert TOKEN not in refused.value.message


def test_a_variable_that_is_not_set_is_named_with_its_key(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_BASE")
    with pytest.raises(ConfigError, match="base_model: the environment variable MY_BASE") as refused:
        translate(read_yaml(file), file)
    assert refused.value.code == "variable_not_set"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("task: llm-sft", "task: llm-reward", "task 'llm-reward' trains a model that scores answers"),
        ("task: llm-sft", "task: llm-ppo", "task 'llm-ppo' is not known"),
        ("task: llm-sft", "task: text_classification", "is not about language models"),
        ("base_model: ${MY_BASE}", "base_model: null", "base_model: missing"),
        ("  lr: 1e-4", "  lr: fast", "params.lr: a number is expected, got 'fast'"),
    ],
)
def test_what_is_not_trained_is_refused_by_name(file: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        translate(read_yaml(changed(file, old, new)), file)


def test_a_reward_model_is_refused_by_its_trainer_too(pairs_file: Path) -> None:
    pairs_file.write_text(DPO_FILE.replace("llm-dpo", "llm").replace("trainer: sft", "trainer: reward"))
    with pytest.raises(ConfigError, match=r"with params\.trainer 'reward' trains a model that scores"):
        translate(read_yaml(pairs_file), pairs_file)


@pytest.mark.parametrize("task", ["llm", "llm-sft", "llm-generic"])
def test_the_tasks_of_language_models_are_translated(file: Path, task: str) -> None:
    content = read_yaml(changed(file, "llm-sft", task))
    assert is_autotrain(content)
    assert translate(content, file).config["training"]["method"]["type"] == "supervised"


def test_rows_are_parted_by_their_content_and_alike_each_time(file: Path, settings: Settings) -> None:
    write_rows(file.parent / "rows" / "train.jsonl", rows(60) + rows(60))
    first = prepared(file, settings)
    parts = {name: (first.directory / "data" / name).read_text().splitlines() for name in ("train.jsonl", "test.jsonl")}
    assert len(parts["test.jsonl"]) == 20
    assert len(parts["train.jsonl"]) == 100
    assert set(parts["test.jsonl"]).isdisjoint(parts["train.jsonl"])
    before = contents(first.directory)
    assert contents(prepared(file, settings).directory) == before


def test_a_validation_split_is_validated_with(file: Path, settings: Settings) -> None:
    result = prepared(changed(file, "valid_split: null", "valid_split: validation"), settings)
    valid = load_config(result.config).data.valid
    assert valid is not None
    assert len(valid.read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"messages": 7}, "not_messages"),
        ({"text": "hello"}, "unknown_column"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "too_few_rows"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(file: Path, settings: Settings, row: Any, code: str) -> None:  # noqa: ANN401
    write_rows(file.parent / "rows" / "train.jsonl", [row] * 40)
    with pytest.raises(DataError) as refused:
        prepared(file, settings)
    assert refused.value.code == code


def test_long_answers_are_graded_by_likeness(file: Path, settings: Settings) -> None:
    wanted = rows(40)
    for number, row in enumerate(wanted):
        row["messages"][-1]["content"] = f"It is a ball with the number {number}."
    write_rows(file.parent / "rows" / "train.jsonl", wanted)
    assert [grader.type for grader in load_config(prepared(file, settings).config).graders] == ["text_similarity"]


@pytest.mark.parametrize(
    ("project", "suffix"),
    [("a b", "a-b"), ("out/my.project/", "my-project"), ("x" * 99, "x" * 64), ("色の実験", "tuned")],
)
def test_a_project_name_becomes_a_suffix(project: str, suffix: str) -> None:
    assert suffix_of(project) == suffix


def test_no_rule_is_for_a_token() -> None:
    assert [key for key in RULES if "token" in key and key != "params.add_eos_token"] == []


DPO_FILE = """\
task: llm-dpo
base_model: smollm2-135m-instruct
project_name: kinder
data:
  path: pairs.csv
  train_split: train
  column_mapping:
    prompt_text_column: asked
    text_column: better
    rejected_text_column: worse
params:
  trainer: sft
  epochs: 1
  lr: 1e-5
  dpo_beta: 0.3
  model_ref: null
  max_prompt_length: 128
  max_completion_length: 256
  peft: true
"""


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    lines = [f'"What is {n} times ten?","It is {n}0.","Who knows, {n}."' for n in range(40)]
    (tmp_path / "pairs.csv").write_text("asked,better,worse\n" + "\n".join(lines))
    path = tmp_path / "dpo.yml"
    path.write_text(DPO_FILE)
    return path


def test_a_preference_task_trains_on_its_three_columns(pairs_file: Path, settings: Settings) -> None:
    result = prepared(pairs_file, settings)
    config = load_config(result.config)
    method = config.training.method
    assert (method.type, method.beta, method.hyperparameters.n_epochs) == ("dpo", 0.3, 1)
    assert method.hyperparameters.learning_rate_multiplier == pytest.approx(1e-5 / base_learning_rate(config.training))
    rows = [json.loads(line) for line in config.data.train.read_text().splitlines()]
    assert len(rows) == 30
    assert rows[0].keys() == {"input", "preferred_output", "non_preferred_output"}
    assert rows[0]["preferred_output"][0]["content"].startswith("It is")


def test_the_keys_of_preferences_are_accounted_for(pairs_file: Path, settings: Settings) -> None:
    keys = {key.key: key for key in prepared(pairs_file, settings).keys}
    assert keys["params.dpo_beta"].became == "training.method.dpo.hyperparameters.beta: 0.3"
    assert keys["data.column_mapping.rejected_text_column"].fate == "used"
    assert keys["params.max_prompt_length"].fate == keys["params.model_ref"].fate == "no counterpart"
    assert keys["params.trainer"].became == "the task's name says it"


def test_orpo_has_the_same_keys_and_its_own_place(pairs_file: Path) -> None:
    pairs_file.write_text(DPO_FILE.replace("llm-dpo", "llm-orpo").replace("  dpo_beta: 0.3\n", ""))
    found = translate(read_yaml(pairs_file), pairs_file)
    hyper = found.config["training"]["method"]["orpo"]["hyperparameters"]
    assert (found.method, hyper["beta"]) == ("orpo", DEFAULT_BETA)
    assert {key.key: key.fate for key in found.keys}["params.dpo_beta"] == "default"


@pytest.mark.parametrize("trainer", ["dpo", "orpo"])
def test_without_a_trainer_in_its_name_the_task_takes_the_parameter_s(pairs_file: Path, trainer: str) -> None:
    text = DPO_FILE.replace("llm-dpo", "llm").replace("trainer: sft", f"trainer: {trainer}")
    pairs_file.write_text(text)
    assert translate(read_yaml(pairs_file), pairs_file).method == trainer


def test_without_peft_every_weight_is_trained_and_an_adapter_s_keys_mean_nothing(file: Path) -> None:
    content = read_yaml(changed(file, "peft: true", "peft: false\n  lora_r: 8"))
    found = translate(content, file)
    training = found.config["training"]
    assert training["weights"] == "full"
    assert "lora" not in training
    rate = training["method"]["supervised"]["hyperparameters"]["learning_rate_multiplier"]
    assert rate == pytest.approx(1e-4 / base_learning_rate(TrainingRequest(weights="full")))
    told = {key.key: key.fate for key in found.keys}
    assert told["params.lora_r"] == told["params.target_modules"] == "no counterpart"


TEXTS = [
    f"In year {n} the mill at Thornby ground {n * 3} sacks of rye, and the river did not freeze." for n in range(40)
]


@pytest.mark.parametrize("column", ["text_column: story", "text_column: text"])
def test_plain_text_is_trained_on_as_text_and_judged_by_how_it_goes_on(
    file: Path, settings: Settings, column: str
) -> None:
    name = column.split(": ")[1]
    write_rows(file.parent / "rows" / "train.jsonl", [{name: text} for text in TEXTS])
    result = prepared(changed(file, "text_column: messages", column), settings)
    config = load_config(result.config)
    assert config.training.method.type == "pretraining"
    assert config.training.method.hyperparameters.n_epochs == 2
    trained = [json.loads(line) for line in config.data.train.read_text().splitlines()]
    asked = [json.loads(line)["messages"] for line in config.data.test.read_text().splitlines()]
    assert len(trained) == 30
    assert trained[0].keys() == {"text"}
    kept_out = set(TEXTS) - {row["text"] for row in trained}
    assert {f"{question['content']} {answer['content']}" for question, answer in asked} == kept_out
    told = {key.key: key.became for key in result.keys}
    assert told["params.epochs"] == "training.method.pretraining.hyperparameters.n_epochs: 2"
    assert any("asked by their first half" in note for note in result.notes)
    assert [grader.type for grader in config.graders] == ["text_similarity"]


def test_texts_too_short_to_be_halved_are_refused(file: Path, settings: Settings) -> None:
    write_rows(file.parent / "rows" / "train.jsonl", [{"messages": f"Text {n}."} for n in range(40)])
    with pytest.raises(DataError, match="has 40 characters") as refused:
        prepared(file, settings)
    assert refused.value.code == "too_few_rows"


@pytest.mark.parametrize("missing", [[], ["tensorboard"]])
def test_a_log_is_a_tracker_where_its_package_is_installed(
    file: Path, monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    monkeypatch.setattr("tunewise.jobs.autotrain.missing_packages", lambda *_: missing)
    found = translate(read_yaml(file), file)
    told = {key.key: key for key in found.keys}["log"]
    assert found.config["training"].get("trackers") == (None if missing else ["tensorboard"])
    assert told.fate == ("no counterpart" if missing else "translated")
