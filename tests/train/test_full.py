"""Every weight trained: as a plain loop would, stopped and gone on with, and left behind as a model of its own."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from train.making import (
    SUPERVISED,
    events_of,
    make_run,
    make_spec,
    pause_and_go_on,
    result_of,
    row,
    told,
    train,
    write_rows,
)
from train.test_trajectory import padded_loss
from tunewise.catalogue import find
from tunewise.contracts.run import BaseModelRef, ParentAdapter, TrainSpec
from tunewise.data.template import Template
from tunewise.modeling.layers import train_weights
from tunewise.modeling.loading import load_frozen, load_trained
from tunewise.settings import Settings
from tunewise.train.criterion import Unit
from tunewise.train.methods.supervised import TokenCriterion
from tunewise.train.optimizer import trainable
from tunewise.train.plan import step_rows
from tunewise.train.rows import load_rows
from tunewise.train.step import accumulate_gradients, clip_gradients, evaluate

STEPS, BATCH, RATE = 20, 8, 3e-3
MODEL_FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}


@pytest.fixture(scope="module")
def untied_model(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> BaseModelRef:
    directory = tmp_path_factory.mktemp("models") / "untied"
    config = LlamaConfig.from_pretrained(tiny_model.path, tie_word_embeddings=False, hidden_size=32)
    with torch.random.fork_rng():
        torch.manual_seed(8)
        LlamaForCausalLM(config).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny_model.path / name, directory / name)
    return find(str(directory), Settings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture(params=["tied", "untied"])
def model(request: pytest.FixtureRequest, tiny_model: BaseModelRef, untied_model: BaseModelRef) -> BaseModelRef:
    return tiny_model if request.param == "tied" else untied_model


@pytest.fixture(scope="module")
def spec(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    files = tmp_path_factory.mktemp("data")
    rows = write_rows(files / "train.jsonl", [row(number) for number in range(16)])
    valid = write_rows(files / "valid.jsonl", [row(number) for number in range(100, 104)])
    return make_spec(tiny_model, rows, valid, weights="full", n_epochs=3, learning_rate=2e-3)


def units_of(spec: TrainSpec) -> list[Unit]:
    return load_rows(
        spec.train_file, Template.load(spec.base_model.path), SUPERVISED, max_tokens=512, overlong="error"
    ).units


def test_twenty_steps_equal_a_plain_loop(model: BaseModelRef, spec: TrainSpec) -> None:
    units = units_of(spec)
    fast, plain = load_trained(model, model.path), AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    train_weights(fast, None)
    assert len(trainable(fast)) == len(list(plain.parameters()))
    found = []
    for one in (fast, plain):
        optimizer = torch.optim.AdamW(one.parameters(), lr=RATE, weight_decay=0.0)
        losses = []
        for step in range(STEPS):
            chosen = step_rows(len(units), BATCH, seed=0, step=step)
            if one is fast:
                losses.append(accumulate_gradients(fast, TokenCriterion(share_prefixes=True), units, chosen).loss)
                clip_gradients(trainable(fast), 1.0)
            else:
                loss = padded_loss(one, [units[at].rows[0] for at in chosen])
                losses.append(loss.item())
                loss.backward()  # type: ignore[no-untyped-call]
                clip_grad_norm_(one.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        found.append(losses)
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[1][-1] < 0.9 * found[1][0]


def test_paused_and_gone_on_with_it_ends_in_the_same_bits(
    model: BaseModelRef, untied_model: BaseModelRef, spec: TrainSpec, tmp_path: Path
) -> None:
    top_layers = 1 if model == untied_model else None
    changed = spec.model_copy(update={"base_model": model, "top_layers": top_layers, "weight_decay": 0.1})
    straight, paused = (make_run(tmp_path / each, changed) for each in ("straight", "paused"))
    assert train(straight) == 0
    pause_and_go_on(paused)
    assert result_of(paused).model_sha256 == result_of(straight).model_sha256
    assert told(paused) == told(straight)
    before, after = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).state_dict()
        for path in (model.path, straight / "model")
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    everything = set(before)
    top = {name for name in everything if name.startswith(("model.layers.1.", "model.norm."))}
    assert moved == (everything if top_layers is None else top)


@pytest.fixture(scope="module")
def run(spec: TrainSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("runs") / "run", spec)
    assert train(run) == 0
    return run


def test_the_model_is_a_base_model_with_the_measured_loss(run: Path, spec: TrainSpec, tmp_path: Path) -> None:
    result = result_of(run)
    assert (result.adapter, result.model, result.adapter_step) == (None, "model", 12)
    assert result.weights_sha256 == sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    assert {path.name for path in (run / "model").iterdir()} >= MODEL_FILES
    tuned = find(str(run / "model"), Settings(home=tmp_path))
    assert (tuned.parameters, tuned.context_length) == (spec.base_model.parameters, spec.base_model.context_length)
    assert spec.valid_file is not None
    rows = load_rows(spec.valid_file, Template.load(tuned.path), SUPERVISED, max_tokens=512, overlong="error").units
    found = evaluate(load_frozen(tuned, "float32"), TokenCriterion(share_prefixes=True), rows, range(len(rows))).loss
    assert found == pytest.approx(result.valid_loss, rel=1e-6)
    losses = [event.data.train_loss for event in events_of(run) if event.type == "metrics" and event.data]
    assert losses[-1] < 0.9 * losses[0]


def test_the_config_is_the_base_models_but_for_the_number_format(run: Path, spec: TrainSpec) -> None:
    ours, theirs = (json.loads((path / "config.json").read_bytes()) for path in (run / "model", spec.base_model.path))
    assert ours == theirs | {"dtype": "float32"}
    assert "| weights | full |" in (run / "model" / "README.md").read_text()
    assert AutoTokenizer.from_pretrained(run / "model").chat_template


def test_two_epochs_checkpoints_are_kept_and_are_models_too(run: Path) -> None:
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == ["step-12", "step-8"]
    AutoModelForCausalLM.from_pretrained(run / "checkpoints" / "step-8")


def test_early_stopping_ends_with_the_best_epochs_weights(spec: TrainSpec, tmp_path: Path) -> None:
    changed = spec.model_copy(update={"n_epochs": 20, "learning_rate": 0.3, "early_stopping_patience": 2})
    run = make_run(tmp_path / "run", changed)
    assert train(run) == 0
    result = result_of(run)
    kept = run / "checkpoints" / f"step-{result.adapter_step}" / "model.safetensors"
    assert sha256(kept.read_bytes()).hexdigest() == result.model_sha256
    assert result.adapter_step is not None
    assert result.adapter_step < result.steps


def test_a_tuned_adapter_is_merged_into_the_weights_that_train_on(spec: TrainSpec, tmp_path: Path) -> None:
    parent = make_run(tmp_path / "parent", spec.model_copy(update={"weights": "lora", "learning_rate": 2e-2}))
    assert train(parent) == 0
    digest = result_of(parent).adapter_sha256
    assert digest is not None
    further = spec.model_copy(update={"parent": ParentAdapter(path=parent / "adapter", sha256=digest)})
    straight, paused = (make_run(tmp_path / each, further) for each in ("straight", "paused"))
    assert train(straight) == 0
    pause_and_go_on(paused)
    assert result_of(paused).model_sha256 == result_of(straight).model_sha256
    first = next(event.data.train_loss for event in events_of(straight) if event.type == "metrics" and event.data)
    began = next(event.data.train_loss for event in events_of(parent) if event.type == "metrics" and event.data)
    assert first < began - 0.1
