"""A base model without a chat template becomes one with ChatML, whose tokens are trained, hosted and stopped at."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from modeling.families import FAMILIES, make
from train.making import make_run, make_spec, result_of, row, train, write_rows
from tunewise.catalogue import find
from tunewise.contracts.chat import UserMessage
from tunewise.contracts.run import BaseModelRef
from tunewise.data.template import Template
from tunewise.errors import ModelError
from tunewise.modeling.chatml import END, START
from tunewise.serve.generation import Generation, Sampling
from tunewise.serve.local import LocalEngine
from tunewise.settings import Settings


@pytest.fixture
def plain(family_model: Callable[[str], BaseModelRef], tmp_path: Path) -> Path:
    """A Gemma without a chat template."""
    directory = shutil.copytree(family_model("gemma3").path, tmp_path / "plain")
    (directory / "chat_template.jinja").unlink()
    return directory


def test_it_is_given_when_asked_for_and_named_when_not(plain: Path, settings: Settings) -> None:
    with pytest.raises(ModelError, match="--chatml") as refused:
        find(str(plain), settings)
    assert refused.value.code == "no_chat_template"
    told: list[str] = []
    given = find(str(plain), settings, notify=told.append, chatml=True)
    assert any("ChatML" in message for message in told)
    assert find(str(plain), settings) == given
    assert not (plain / "chat_template.jinja").exists()


def embeddings(directory: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    return embedding.weight


def test_the_tokens_are_added_with_rows_that_mean_something(plain: Path, settings: Settings) -> None:
    given = find(str(plain), settings, chatml=True)
    template = Template.load(given.path)
    start, end = (template.tokenizer.token_to_id(token) for token in (START, END))
    assert given.added_tokens == (start, end)
    before = embeddings(plain)
    after = embeddings(given.path)
    torch.testing.assert_close(after[: len(before)], before)
    torch.testing.assert_close(after[end], before[template.tokenizer.token_to_id("<eos>")])
    torch.testing.assert_close(after[start], before.mean(0))
    assert template.stop_ids == {end, template.tokenizer.token_to_id("<eos>")}


def test_a_model_that_has_the_tokens_keeps_their_rows(tmp_path: Path, settings: Settings) -> None:
    family = next(family for family in FAMILIES if family.name == "qwen2")
    make(family, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    given = find(str(tmp_path / "model"), settings, chatml=True)
    assert given.added_tokens == ()
    weights = [load_file(place / "model.safetensors") for place in (tmp_path / "model", given.path)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_it_is_trained_and_hosted_and_stops_at_its_own_end_token(
    plain: Path, settings: Settings, tmp_path: Path
) -> None:
    given = find(str(plain), settings, chatml=True)
    rows = write_rows(tmp_path / "train.jsonl", [row(number) for number in range(2)] * 60)
    run = make_run(tmp_path / "run", make_spec(given, rows, n_epochs=3, learning_rate=3e-2, valid_every_steps=100))
    assert train(run) == 0
    adapter = run / (result_of(run).adapter or "")
    question = json.loads(row(0))["messages"]
    with LocalEngine(given.path, torch.float32) as local:
        local.engine.load_adapter("tuned", adapter)
        prompt = local.template.prompt_ids([UserMessage(content=question[0]["content"])])
        (result,) = local.generate([Generation(tuple(prompt), "tuned", 1, 200, Sampling(0.0, 1.0, 0), top_logprobs=0)])
    assert result.texts == [question[1]["content"]]
    assert result.finish_reasons == ["stop"]
    saved = load_file(adapter / "adapter_model.safetensors")
    (values,) = (tensor for name, tensor in saved.items() if "trainable_tokens" in name)
    began = embeddings(given.path)
    assert (values - began[list(given.added_tokens)]).norm(dim=1).gt(0.01).all()
