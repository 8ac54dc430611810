"""The tuned model that is exported, in memory and in float32; and what it answers, where its training recorded nothing.

Knows base models, PEFT's adapters and tuned weights by their directories; nothing of what they are written to.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from tunewise.contracts.chat import UserMessage
from tunewise.contracts.export import ExportSpec
from tunewise.contracts.parity import Parity
from tunewise.data.template import Template
from tunewise.errors import ModelError
from tunewise.modeling.greedy import PLAIN_ATTENTION, as_hosted, greedy_answers

# Put to models whose training recorded nothing: adapters from elsewhere, checkpoints, 4-bit training.
QUESTIONS = (
    "What is the capital of France?",
    "List three fruits.",
    "Write one sentence about the sea.",
    "2 + 2 = ?",
)
NEW_TOKENS = 32


def load_base(spec: ExportSpec) -> PreTrainedModel:
    """The base model that an adapter is for.

    Raises:
        ModelError: no_base_model, cannot_load_model.
    """
    if spec.base is None:
        raise ModelError(
            "no_base_model", f"{spec.title}: which base model is it for? Say so with --base", param="--base"
        )
    return load_model(spec.base.path)


def load_model(directory: Path) -> PreTrainedModel:
    """A directory of safetensors, computed in float32 whatever it is stored in.

    Raises:
        ModelError: cannot_load_model.
    """
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation=PLAIN_ATTENTION,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError("cannot_load_model", f"{directory} cannot be loaded as a language model: {error}") from error
    model.train(False)
    return model


def on_base(spec: ExportSpec, adapter: Path) -> PeftModel:
    """The base model with an adapter as PEFT loads it.

    Raises:
        ModelError: no_base_model, cannot_load_model, adapter_unreadable.
    """
    base = load_base(spec)
    try:
        with _peft_warnings():
            adapted = PeftModel.from_pretrained(base, str(adapter))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError("adapter_unreadable", f"{adapter} does not load on {base.name_or_path}: {error}") from error
    adapted.train(False)
    return adapted


def adapted_base(spec: ExportSpec, adapter: Path) -> PreTrainedModel:
    """As `on_base`, as the model of transformers that has PEFT's layers in it.

    Raises:
        ModelError: as `on_base`.
    """
    return cast(PreTrainedModel, on_base(spec, adapter).get_base_model())


def load_tuned(spec: ExportSpec) -> PreTrainedModel:
    """The tuned model without anything of PEFT: the adapter is added to the base's weights, in float32.

    Raises:
        ModelError: as `load_base` and `on_base`.
    """
    if spec.kind == "model":
        return load_model(spec.source)
    merge: Any = on_base(spec, spec.source).merge_and_unload  # untyped in peft
    merged: PreTrainedModel = merge()
    return merged


def tokenizer_directory(spec: ExportSpec) -> Path:
    """Where tokenizer and template are: with the base model, which has all of it."""
    return spec.source if spec.kind == "model" or spec.base is None else spec.base.path


def reference(spec: ExportSpec, template: Template) -> Parity:
    """What the model answers now, as PEFT computes it, to be held against what is written."""
    prompts = [template.prompt_ids([UserMessage(content=question)]) for question in QUESTIONS]
    tuned = load_model(spec.source) if spec.kind == "model" else adapted_base(spec, spec.source)
    with as_hosted(tuned):
        return Parity(dtype="float32", prompts=greedy_answers(tuned, prompts, template.stop_ids, new_tokens=NEW_TOKENS))


@contextmanager
def _peft_warnings() -> Iterator[None]:
    """PEFT asks transformers for a name that transformers 5 has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield
