"""Every family's text is that of `generate`, whether its layers are computed by the short way or by its own code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteConfig, Ministral3Config, SmolLM3Config

from modeling.families import FAMILIES, WINDOW
from serve.running import save_adapter
from serve.test_engine import generation, references, tokens
from tunewise.contracts.run import BaseModelRef
from tunewise.serve.adapters import NO_ADAPTER, read_adapter
from tunewise.serve.attention import DecodeGroup, StepLayout
from tunewise.serve.local import LocalEngine
from tunewise.serve.network import Network

SHORT_WAY = {"llama3", "qwen2", "qwen3", "mistral"}
NAMES = [family.name for family in FAMILIES]
PROMPTS = [tuple(range(20, 20 + length)) for length in (1, WINDOW, 3 * WINDOW + 1, 17)]
LOOKS: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SHAPE: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.mark.parametrize("name", NAMES)
def test_the_llama_shape_goes_the_short_way(name: str, family_model: Callable[[str], BaseModelRef]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert Network(family_model(name).path, dtype).has_trunk == (name in SHORT_WAY)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_equal_generate(name: str, family_model: Callable[[str], BaseModelRef], tmp_path: Path) -> None:
    model = family_model(name).path
    save_adapter(model, tmp_path / "tuned", 3, SHAPE)
    wanted = [(prompt, adapter) for prompt in PROMPTS for adapter in (None, "tuned")]
    with LocalEngine(model, torch.float32) as local:
        local.engine.load_adapter("tuned", tmp_path / "tuned")
        ours = local.generate([generation(prompt, adapter) for prompt, adapter in wanted])
    theirs = references(model, {"tuned": tmp_path / "tuned"}, wanted)
    assert list(map(tokens, ours)) == theirs
    assert len({tuple(row) for row in theirs}) > len(PROMPTS)


LOOK_ALIKES = {
    # Residuals are multiplied.
    "granite": GraniteConfig(**LOOKS, residual_multiplier=0.5),
    # Every second layer has no rotation.
    "smollm3": SmolLM3Config(**LOOKS, no_rope_layer_interval=2, use_sliding_window=False),
    # Queries grow with their distance from the beginning.
    "ministral3": Ministral3Config(
        **LOOKS,
        max_position_embeddings=1024,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 16.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.3,
        },
    ),
}


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_a_model_that_only_looks_like_llama_is_computed_by_its_own_code(
    name: str, tiny_model: BaseModelRef, tmp_path: Path
) -> None:
    """All their modules have Llama's names."""
    config = LOOK_ALIKES[name]
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    for path, weight in model.named_parameters():
        if "norm" not in path:
            weight.data = 0.15 * torch.randn_like(weight)
    model.save_pretrained(tmp_path)
    for file in [*tiny_model.path.glob("*token*"), *tiny_model.path.glob("*.jinja")]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for dtype in (torch.float32, torch.bfloat16):
        assert not Network(tmp_path, dtype).has_trunk
    save_adapter(tmp_path, tmp_path / "tuned", 3, SHAPE)
    wanted: list[tuple[tuple[int, ...], str | None]] = [(prompt, "tuned") for prompt in PROMPTS]
    with LocalEngine(tmp_path, torch.float32) as local:
        local.engine.load_adapter("tuned", tmp_path / "tuned")
        ours = local.generate([generation(prompt, adapter) for prompt, adapter in wanted])
    assert list(map(tokens, ours)) == references(tmp_path, {"tuned": tmp_path / "tuned"}, wanted)


def test_the_bank_keeps_what_is_in_use_and_takes_empty_places_first(
    family_model: Callable[[str], BaseModelRef], tmp_path: Path
) -> None:
    """More adapters than places, of other ranks, in turns: each answer is that of its adapter alone."""
    model = family_model("llama3").path
    network = Network(model, torch.float32)
    for key, rank in enumerate((4, 16, 3, 8, 5, 2, 7)):
        save_adapter(model, tmp_path / str(key), key, {**SHAPE, "r": rank})
        network.put_adapter(key, read_adapter(str(key), tmp_path / str(key)))
    alone = {key: _one_step(network, [key])[0] for key in range(7)}
    for batch in ([0, 1], [2], [1, 3, 0], [4, 5, 6, 0, 1, 2], [3, NO_ADAPTER, 3, 2], [6], [0, 1, 2, 3, 4, 5, 6]):
        for row, key in zip(_one_step(network, batch), batch, strict=True):
            if key != NO_ADAPTER:
                torch.testing.assert_close(row, alone[key], rtol=1e-4, atol=1e-4)
    network.drop_adapter(1)
    network.put_adapter(1, read_adapter("other", tmp_path / "4"))
    torch.testing.assert_close(_one_step(network, [0, 1])[1], alone[4], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def _one_step(network: Network, adapters: list[int]) -> torch.Tensor:
    """Logits of the same token after nothing, once for each adapter."""
    count = len(adapters)
    rows, last = torch.arange(count), torch.zeros(count, dtype=torch.long)
    group = DecodeGroup(0, count, network.kv_shape.empty(count, capacity=4), last)
    network.route(adapters, count)
    return network.forward(last + 20, last, StepLayout(groups=[group]), rows)
