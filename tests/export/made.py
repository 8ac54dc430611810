"""Tuned models to export: base models of each family whose tokenizer llama.cpp knows, and adapters that change them."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from modeling.families import FAMILIES, make
from serve.running import peft_warnings
from tunewise.catalogue import find
from tunewise.contracts.export import ExportSpec, Licence
from tunewise.contracts.run import BaseModelRef
from tunewise.export.gguf_tokens import WORDS
from tunewise.settings import Settings

SPREAD = 0.1
ALL = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
WAYS = {name: words for words, name in WORDS.items()}
FAMILY_WAYS = {"llama3": "llama-bpe", "qwen2": "qwen2", "qwen3": "qwen2"}
"""llama.cpp's names for how the families' published tokenizers cut words."""


def make_base(name: str, directory: Path) -> BaseModelRef:
    """A family's tiny model; its byte-level tokenizer cuts words as the published one does."""
    make(next(family for family in FAMILIES if family.name == name), directory)
    if name in FAMILY_WAYS:
        file = directory / "tokenizer.json"
        tokenizer = json.loads(file.read_bytes())
        split = tokenizer["pre_tokenizer"]["pretokenizers"][0]
        split["pattern"] = {"Regex": WAYS[FAMILY_WAYS[name]]}
        file.write_text(json.dumps(tokenizer))
    return find(str(directory), Settings(home=directory.parent / "home"))


def save_random_adapter(
    base: BaseModelRef, directory: Path, shape: dict[str, Any] = ALL, spread: float = SPREAD
) -> Path:
    """An adapter that changes answers, saved as PEFT saves it."""
    plain = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    with peft_warnings():
        tuned = get_peft_model(plain, LoraConfig(task_type="CAUSAL_LM", **shape))
    numbers = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for path, weight in tuned.named_parameters():
            if "lora_magnitude" in path:
                weight.mul_(1 + spread * torch.randn(weight.shape, generator=numbers))
            elif weight.requires_grad:
                weight.add_(spread * torch.randn(weight.shape, generator=numbers))
    tuned.save_pretrained(str(directory))
    return directory


def spec_of(base: BaseModelRef, source: Path, output: Path, **changes: Any) -> ExportSpec:  # noqa: ANN401  # any field
    """An export of an adapter, merged where nothing else is said."""
    spec = ExportSpec(
        title="a test",
        source=source,
        kind="adapter",
        base=base,
        hub_id=None,
        licence=Licence(id="apache-2.0", name="Apache-2.0"),
        target="merged",
        output=output,
        spec=None,
        result=None,
        verdict=None,
    )
    return spec.model_copy(update=changes)


def scale_tensor(file: Path, tensor: str, factor: float) -> None:
    """Spoil a safetensors file."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    tensors[tensor] = tensors[tensor] * factor
    save_file(tensors, file, metadata={"format": "pt"})


def copy_of(directory: Path, place: Path) -> Path:
    """A directory that may be spoilt."""
    return Path(shutil.copytree(directory, place))
