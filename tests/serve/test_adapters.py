"""Adapter directories: what is read, and what is refused by name."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serve.running import save_adapter
from tunewise.contracts.run import BaseModelRef
from tunewise.errors import ModelError
from tunewise.serve.adapters import CONFIG_FILE, REFUSED_FEATURES, WEIGHTS_FILE, read_adapter
from tunewise.serve.network import Network


@pytest.fixture
def adapter(adapters: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(adapters["some"], tmp_path / "adapter")
    return tmp_path / "adapter"


def change(adapter: Path, **options: object) -> None:
    config = json.loads((adapter / CONFIG_FILE).read_text())
    (adapter / CONFIG_FILE).write_text(json.dumps(config | options))


def test_the_scale_of_rank_stabilised_lora_is_honoured(adapter: Path) -> None:
    stabilised = read_adapter("a", adapter).pairs
    change(adapter, use_rslora=False)
    for path, pair in read_adapter("a", adapter).pairs.items():
        assert torch.allclose(pair.up * 2, stabilised[path].up)  # rank 4: alpha / 4 against alpha / sqrt(4)


def test_patterns_of_alpha_change_the_layers_they_name(adapter: Path) -> None:
    before = read_adapter("a", adapter).pairs
    change(adapter, alpha_pattern={"layers.1.self_attn.q_proj": 32})
    for path, pair in read_adapter("a", adapter).pairs.items():
        factor = 2.0 if path == "model.layers.1.self_attn.q_proj" else 1.0
        assert torch.allclose(pair.up, before[path].up * factor)


def test_magnitudes_come_with_dora_and_only_with_it(adapters: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(adapters["third"], tmp_path / "adapter")
    found = read_adapter("a", tmp_path / "adapter").pairs
    assert {pair.magnitude.shape[0] for pair in found.values() if pair.magnitude is not None} == {32, 64, 128}
    change(tmp_path / "adapter", use_dora=False)
    with pytest.raises(ModelError, match="has not all of"):
        read_adapter("a", tmp_path / "adapter")


@pytest.mark.parametrize("option", REFUSED_FEATURES)
def test_features_that_are_not_supported_are_refused_by_name(adapter: Path, option: str) -> None:
    change(adapter, **{option: "something"})
    with pytest.raises(ModelError, match=option) as refused:
        read_adapter("a", adapter)
    assert refused.value.code == "adapter_unsupported"


def test_other_kinds_of_adapter_are_refused(adapter: Path) -> None:
    change(adapter, peft_type="LOHA")
    with pytest.raises(ModelError, match="LOHA"):
        read_adapter("a", adapter)


def test_what_is_no_adapter_says_so(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=CONFIG_FILE):
        read_adapter("a", tmp_path / "absent")
    (adapter / WEIGHTS_FILE).write_bytes(b"junk")
    with pytest.raises(ModelError, match="cannot be read"):
        read_adapter("a", adapter)
    (adapter / WEIGHTS_FILE).unlink()
    with pytest.raises(ModelError, match=WEIGHTS_FILE):
        read_adapter("a", adapter)
    (adapter / CONFIG_FILE).write_text("[]")
    with pytest.raises(ModelError, match="JSON object"):
        read_adapter("a", adapter)


def test_half_a_pair_and_strange_weights_are_refused(adapter: Path) -> None:
    weights = load_file(adapter / WEIGHTS_FILE)
    name = next(name for name in weights if "lora_A" in name)
    save_file({key: value for key, value in weights.items() if key != name}, adapter / WEIGHTS_FILE)
    with pytest.raises(ModelError, match="has not all of"):
        read_adapter("a", adapter)
    save_file(
        weights | {"base_model.model.model.embed_tokens.lora_embedding_A": weights[name].clone()},
        adapter / WEIGHTS_FILE,
    )
    with pytest.raises(ModelError, match="lora_embedding_A"):
        read_adapter("a", adapter)


def test_an_adapter_of_another_base_model_is_refused(
    tiny_model: BaseModelRef, smollm2: BaseModelRef, tmp_path: Path
) -> None:
    save_adapter(smollm2.path, tmp_path / "other", 1, {"r": 2, "target_modules": ["q_proj"]})
    network = Network(tiny_model.path, torch.float32)
    with pytest.raises(ModelError, match=r"another base model|no linear layer") as refused:
        network.put_adapter(0, read_adapter("other", tmp_path / "other"))
    assert refused.value.code == "adapter_mismatch"
