"""Writing a model whose own weights were trained: a directory that is a base model's. Knows no training loop."""

import json
from pathlib import Path

from transformers import PreTrainedModel

from tunewise.contracts.run import MODEL_CONFIG_FILE, TrainSpec
from tunewise.modeling.card import CARD_FILE
from tunewise.train.adapter import copy_tokenizer, model_card
from tunewise.train.journal import write_synced
from tunewise.train.progress import Progress
from tunewise.train.tensors import naming_a_full_disk

ONE_FILE = "1000000GB"
GENERATION_FILE = "generation_config.json"


def write_model(directory: Path, model: PreTrainedModel, spec: TrainSpec, progress: Progress) -> None:
    """Fill a directory that transformers and `tunewise.serve` load: weights, config, tokenizer, template, model card.

    The config is the base model's own: what this run has set on the model in memory is no part of it.

    Raises:
        OSError: the disk is full, or the directory cannot be written.
    """
    with naming_a_full_disk(directory):
        model.save_pretrained(directory, max_shard_size=ONE_FILE)
    config = json.loads((spec.base_model.path / MODEL_CONFIG_FILE).read_bytes())
    config |= {name: "float32" for name in ("dtype", "torch_dtype") if name in config} or {"dtype": "float32"}
    write_synced(directory / MODEL_CONFIG_FILE, json.dumps(config, indent=2).encode())
    generation = spec.base_model.path / GENERATION_FILE
    if generation.is_file():
        write_synced(directory / GENERATION_FILE, generation.read_bytes())
    copy_tokenizer(spec.base_model, directory)
    write_synced(directory / CARD_FILE, model_card(spec, progress).encode())
