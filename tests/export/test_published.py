"""Exports of tuned models: what is written is the model that was tuned, and what is not is never published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from export.made import ALL, copy_of, make_base, save_random_adapter, scale_tensor, spec_of
from serve.running import peft_warnings
from train.making import make_run, make_spec, result_of, row, train, write_rows
from tunewise.contracts.evaluation import Interval
from tunewise.contracts.export import ExportSpec, Score, ShownVerdict
from tunewise.contracts.run import BaseModelRef, LoraSpec, TrainSpec
from tunewise.data.template import Template
from tunewise.errors import ConfigError, ModelError
from tunewise.export import publish
from tunewise.export.directories import write_merged
from tunewise.export.publish import export
from tunewise.modeling.parity import TOLERANCES, read_parity

FAMILIES = ("llama3", "qwen2", "qwen3", "gemma3")
IDS = torch.randint(5, 300, (1, 37), generator=torch.Generator().manual_seed(5))
LORA = LoraSpec(rank=4, alpha=8.0, dropout=0.0, targets="all-linear")
VARIANTS: dict[str, dict[str, object]] = {
    "lora": {},
    "rslora": {"lora": LORA.model_copy(update={"rank_stabilized": True})},
    "dora": {"lora": LORA.model_copy(update={"dora": True})},
    "pissa": {"lora": LORA.model_copy(update={"init": "pissa"})},
    "full": {"weights": "full"},
}


class Tuned:
    """A base model of a family, with an adapter from elsewhere."""

    def __init__(self, base: BaseModelRef, adapter: Path) -> None:
        self.base, self.adapter = base, adapter

    def logits(self) -> Tensor:
        plain = AutoModelForCausalLM.from_pretrained(self.base.path, dtype=torch.float32)
        with peft_warnings():
            return logits(PeftModel.from_pretrained(plain, str(self.adapter)))


@torch.no_grad()
def logits(model: Any) -> Tensor:  # noqa: ANN401  # of transformers or PEFT
    found: Tensor = model.eval()(input_ids=IDS).logits
    return found


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tuned]:
    made: dict[str, Tuned] = {}

    def of(family: str) -> Tuned:
        if family not in made:
            place = tmp_path_factory.mktemp(family)
            base = make_base(family, place / "base")
            made[family] = Tuned(base, save_random_adapter(base, place / "adapter"))
        return made[family]

    return of


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_weights_equal_the_adapter_on_its_base(
    family: str, tuned: Callable[[str], Tuned], tmp_path: Path
) -> None:
    one = tuned(family)
    report = export(spec_of(one.base, one.adapter, tmp_path / "out"))
    assert (report.checked_with, report.recorded, report.near_ties) == ("transformers", False, 0)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert merged.dtype == torch.float32
    assert torch.allclose(logits(merged), one.logits(), atol=1e-4)
    plain = AutoModelForCausalLM.from_pretrained(one.base.path, dtype=torch.float32)
    assert not torch.allclose(logits(plain), one.logits(), atol=1e-1)


@pytest.mark.parametrize("family", ["llama3", "gemma3"])
def test_a_merged_directory_is_a_model_with_tokenizer_template_and_every_end(
    family: str, tuned: Callable[[str], Tuned], tmp_path: Path
) -> None:
    one = tuned(family)
    report = export(spec_of(one.base, one.adapter, tmp_path / "out", dtype="bfloat16"))
    assert report.widest_logprob is not None
    assert 0 < report.widest_logprob < TOLERANCES["bfloat16"].logprob
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    template = Template.load(one.base.path)
    assert set(GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id) == template.stop_ids
    assert Template.load(tmp_path / "out").stop_ids == template.stop_ids
    messages = [{"role": "user", "content": "List the words, please"}]
    theirs, ours = (AutoTokenizer.from_pretrained(path) for path in (one.base.path, tmp_path / "out"))
    assert ours.apply_chat_template(messages, tokenize=False) == theirs.apply_chat_template(messages, tokenize=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.fixture(scope="module")
def data(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    files = tmp_path_factory.mktemp("data")
    rows = write_rows(files / "train.jsonl", [row(number) for number in range(16)])
    valid = write_rows(files / "valid.jsonl", [row(number) for number in range(100, 104)])
    return make_spec(tiny_model, rows, valid, lora=LORA, n_epochs=1)


@pytest.fixture(scope="module")
def run(data: TrainSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = make_run(tmp_path_factory.mktemp("runs") / "run", data)
    assert train(place) == 0
    return place


def spec_of_run(run: Path, data: TrainSpec, output: Path, **changes: object) -> ExportSpec:
    kind = "model" if (run / "model").is_dir() else "adapter"
    described = {"kind": kind, "spec": data, "result": result_of(run), "hub_id": "owner/tiny"} | changes
    return spec_of(data.base_model, run / kind, output, **described)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_merged_as_its_training_recorded(name: str, data: TrainSpec, tmp_path: Path) -> None:
    changed = data.model_copy(update=VARIANTS[name])
    run = make_run(tmp_path / "run", changed)
    assert train(run) == 0
    report = export(spec_of_run(run, changed, tmp_path / "out"))
    assert (report.recorded, report.near_ties) == (True, 0)
    assert report.widest_logprob is not None
    assert report.widest_logprob < 1e-4
    assert read_parity(tmp_path / "out") is not None


def test_rows_of_added_tokens_are_merged(tmp_path: Path) -> None:
    base = make_base("gemma3", tmp_path / "base")
    shape = ALL | {"trainable_token_indices": {"embed_tokens": [4, 5]}}
    adapter = save_random_adapter(base, tmp_path / "adapter", shape)
    assert any("trainable_tokens" in name for name in load_file(adapter / "adapter_model.safetensors"))
    export(spec_of(base, adapter, tmp_path / "out"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert torch.allclose(logits(merged), Tuned(base, adapter).logits(), atol=1e-4)
    before = load_file(base.path / "model.safetensors")["model.embed_tokens.weight"]
    after = load_file(tmp_path / "out" / "model.safetensors")["model.embed_tokens.weight"]
    assert (before != after).any(1).nonzero()[:, 0].tolist() == [4, 5]


def test_an_adapter_names_the_base_as_the_hub_does_and_loads_with_peft(
    run: Path, data: TrainSpec, tmp_path: Path
) -> None:
    report = export(spec_of_run(run, data, tmp_path / "out", target="adapter"))
    assert report.checked_with == "PEFT on the base model"
    assert '"base_model_name_or_path": "owner/tiny"' in (tmp_path / "out" / "adapter_config.json").read_text()
    assert torch.equal(
        Tuned(data.base_model, tmp_path / "out").logits(), Tuned(data.base_model, run / "adapter").logits()
    )
    assert str(tmp_path) not in (tmp_path / "out" / "adapter_config.json").read_text()


def test_a_hub_directory_has_a_card_and_nothing_of_the_rows(run: Path, data: TrainSpec, tmp_path: Path) -> None:
    mean = Interval(value=0.9, low=0.85, high=0.95)
    verdict = ShownVerdict(
        outcome="worth_it", headline="Better by 0.3.", grader="exact", scores=(Score(arm="tuned", mean=mean),)
    )
    export(spec_of_run(run, data, tmp_path / "out", target="hub-dir", verdict=verdict))
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"README.md", "adapter_model.safetensors"}
    assert not (tmp_path / "out" / "parity.json").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "base_model": "owner/tiny",
        "base_model_relation": "adapter",
        "license": "apache-2.0",
        "tags": ["tunewise", "lora", "sft"],
    }
    assert f"| training file | 16 rows, sha256 {data.train_file.sha256} |" in card
    assert "| tuned | 0.900 (0.850 to 0.950) |" in card
    assert "Verdict: worth it. Better by 0.3." in card
    assert 'PeftModel.from_pretrained(base, ".")' in card
    for secret in ("apple", str(tmp_path), data.train_file.path.name):
        assert secret not in card


def test_a_whole_model_goes_to_the_hub_as_one_and_has_no_adapter(data: TrainSpec, tmp_path: Path) -> None:
    changed = data.model_copy(update={"weights": "full"})
    run = make_run(tmp_path / "run", changed)
    assert train(run) == 0
    export(spec_of_run(run, changed, tmp_path / "out", target="hub-dir", dtype="bfloat16"))
    front = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---")[1])
    assert (front["library_name"], front["base_model_relation"]) == ("transformers", "finetune")
    with pytest.raises(ConfigError, match=r"every weight was trained.*choose merged"):
        export(spec_of_run(run, changed, tmp_path / "other", target="adapter"))


def test_what_is_not_the_trained_model_is_refused_by_prompt_and_nothing_is_left(
    run: Path, data: TrainSpec, tmp_path: Path
) -> None:
    spoilt = copy_of(run / "adapter", tmp_path / "adapter")
    scale_tensor(
        spoilt / "adapter_model.safetensors", "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight", -4
    )
    for target in ("adapter", "merged"):
        spec = spec_of(data.base_model, spoilt, tmp_path / "out" / "it", target=target)
        with pytest.raises(
            ModelError, match=rf"the {target} export of a test: prompt \d of \d .*token \d+ of"
        ) as refused:
            export(spec)
        assert refused.value.code == "parity_failed"
        assert list((tmp_path / "out").iterdir()) == []


def test_a_mistake_in_writing_is_found_in_what_was_written(
    tuned: Callable[[str], Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tuned("qwen3")
    write = write_merged

    def careless(spec: ExportSpec, place: Path, *rest: Any) -> None:  # noqa: ANN401  # passed on
        write(spec, place, *rest)
        scale_tensor(place / "model.safetensors", "model.layers.0.mlp.down_proj.weight", -2)

    monkeypatch.setattr(publish, "write_merged", careless)
    with pytest.raises(ModelError, match="prompt 1 of 4"):
        export(spec_of(one.base, one.adapter, tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_there_is_left_alone(tuned: Callable[[str], Tuned], tmp_path: Path) -> None:
    one = tuned("qwen2")
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(ConfigError, match="kept is there already") as refused:
        export(spec_of(one.base, one.adapter, tmp_path / "kept"))
    assert refused.value.code == "output_exists"
    assert (tmp_path / "kept").read_text() == "mine"
