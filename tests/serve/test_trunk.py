"""Every family's text is that of `generate`, whether its layers are computed by the short way or by its own code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteConfig

from modeling.families import FAMILIES, WINDOW
from serve.running import save_adapter
from serve.test_engine import generation, references, tokens
from tunewise.contracts.run import BaseModelRef
from tunewise.serve.local import LocalEngine
from tunewise.serve.network import Network

SHORT_WAY = {"llama3", "qwen2", "qwen3", "mistral"}
NAMES = [family.name for family in FAMILIES]
PROMPTS = [tuple(range(20, 20 + length)) for length in (1, WINDOW, 3 * WINDOW + 1, 17)]
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


def test_a_model_that_only_looks_like_llama_is_computed_by_its_own_code(
    tiny_model: BaseModelRef, tmp_path: Path
) -> None:
    """Granite's modules have Llama's names; its residuals and embeddings are multiplied."""
    vocabulary = AutoModelForCausalLM.from_pretrained(tiny_model.path).config.vocab_size
    config = GraniteConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        residual_multiplier=0.5,
    )
    torch.manual_seed(4)
    granite = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    for name, weight in granite.named_parameters():
        if "norm" not in name:
            weight.data = 0.15 * torch.randn_like(weight)
    granite.save_pretrained(tmp_path)
    for file in [*tiny_model.path.glob("*token*"), *tiny_model.path.glob("*.jinja")]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_adapter(tmp_path, tmp_path / "tuned", 3, SHAPE)
    wanted: list[tuple[tuple[int, ...], str | None]] = [(prompt, "tuned") for prompt in PROMPTS]
    with LocalEngine(tmp_path, torch.float32) as local:
        local.engine.load_adapter("tuned", tmp_path / "tuned")
        ours = local.generate([generation(prompt, adapter) for prompt, adapter in wanted])
    assert not Network(tmp_path, torch.float32).has_trunk
    assert list(map(tokens, ours)) == references(tmp_path, {"tuned": tmp_path / "tuned"}, wanted)
