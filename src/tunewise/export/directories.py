"""Directories of safetensors: a merged model that is a base model's, an adapter that PEFT loads, with a model card.

Knows which files belong to each; nothing of whether what they hold is right.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tunewise.contracts.export import ExportSpec
from tunewise.contracts.run import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, MODEL_CONFIG_FILE
from tunewise.data.template import Template
from tunewise.errors import ModelError
from tunewise.export.card import model_card
from tunewise.export.tuned import tokenizer_directory
from tunewise.modeling.card import CARD_FILE
from tunewise.modeling.loading import torch_dtype

GENERATION_FILE = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)


def write_merged(spec: ExportSpec, place: Path, model: PreTrainedModel, template: Template) -> None:
    """Weights, configuration, end tokens, tokenizer, template and card, as transformers loads them.

    The configuration is the base model's own: what loading has set on the model in memory is no part of it.

    Raises:
        OSError: the disk is full.
    """
    source = tokenizer_directory(spec)
    model.to(torch_dtype(spec.dtype)).save_pretrained(place)  # type: ignore[arg-type]  # a torch.dtype is one
    config: dict[str, Any] = json.loads((source / MODEL_CONFIG_FILE).read_bytes())
    config |= {name: spec.dtype for name in ("dtype", "torch_dtype") if name in config} or {"dtype": spec.dtype}
    _write_json(place / MODEL_CONFIG_FILE, config)
    _write_json(place / GENERATION_FILE, _generation(source, template))
    _copy_tokenizer(source, place)
    (place / CARD_FILE).write_text(model_card(spec), encoding="utf-8")


def write_adapter(spec: ExportSpec, place: Path) -> None:
    """What PEFT loads on the base model, with the base's tokenizer and template, and a card.

    Raises:
        ModelError: adapter_unreadable.
        OSError: the disk is full.
    """
    try:
        config: dict[str, Any] = json.loads((spec.source / ADAPTER_CONFIG_FILE).read_bytes())
        shutil.copyfile(spec.source / ADAPTER_WEIGHTS_FILE, place / ADAPTER_WEIGHTS_FILE)
    except (FileNotFoundError, ValueError) as error:
        raise ModelError("adapter_unreadable", f"{spec.source} is no adapter that PEFT has saved: {error}") from error
    # A path of the machine that trained says nothing to anybody else.
    named = spec.hub_id or (spec.base and spec.base.name)
    _write_json(place / ADAPTER_CONFIG_FILE, config | ({"base_model_name_or_path": named} if named else {}))
    _copy_tokenizer(tokenizer_directory(spec), place)
    (place / CARD_FILE).write_text(model_card(spec), encoding="utf-8")


def _generation(source: Path, template: Template) -> dict[str, Any]:
    """The base model's, ending where the tuned model ends: also at what its template puts after an answer."""
    file = source / GENERATION_FILE
    settings: dict[str, Any] = json.loads(file.read_bytes()) if file.is_file() else {}
    stops = sorted(template.stop_ids)
    return settings | {"eos_token_id": stops[0] if len(stops) == 1 else stops}


def _copy_tokenizer(source: Path, place: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, place / name)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
