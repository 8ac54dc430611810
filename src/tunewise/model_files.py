"""What a base model's directory holds, by its files alone: are they whole, how large is the model, how long its texts.

Reads JSON and headers, no weights. Knows nothing of names or of where directories lie.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewise.contracts.run import ADDED_TOKENS_FILE
from tunewise.errors import ModelError

PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt"}
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
LONG_ROPE = {"longrope", "su"}
"""LongRoPE, and what older configurations call it."""


def require_files(directory: Path) -> None:
    """Refuse a directory that lacks something.

    Raises:
        ModelError: no_config, no_weights, pickle_weights, no_tokenizer, no_chat_template.
    """
    if not (directory / "config.json").is_file():
        raise ModelError("no_config", f"{directory} has no config.json: it is not a model's directory.", param="model")
    if not any(directory.glob("*.safetensors")):
        pickled = sorted(file.name for file in directory.iterdir() if file.suffix in PICKLE_SUFFIXES)
        raise ModelError(
            "pickle_weights" if pickled else "no_weights",
            f"{directory} has no .safetensors files"
            + (f", only {pickled[0]}, and pickled weights can run code when read. Convert them." if pickled else "."),
            param="model",
        )
    if not (directory / "tokenizer.json").is_file():
        raise ModelError(
            "no_tokenizer", f"{directory} has no tokenizer.json; save the model's fast tokenizer there.", param="model"
        )
    if not has_template(directory):
        raise ModelError(
            "no_chat_template",
            f"{directory} has no chat template. Choose the model's instruct or chat version, put a "
            "chat_template.jinja there, or give it ChatML: tunewise models pull --chatml NAME",
            param="model",
        )


def has_template(directory: Path) -> bool:
    """Whether chats can be rendered."""
    config = directory / "tokenizer_config.json"
    return (directory / "chat_template.jinja").is_file() or (
        config.is_file() and bool(json_object(config).get("chat_template"))
    )


def parameter_count(directory: Path, config: Mapping[str, Any]) -> int:
    """Weights in the directory's safetensors, by their headers alone; a tied output layer is counted once."""
    sizes: dict[str, int] = {}
    for file in sorted(directory.glob("*.safetensors")):
        sizes.update(_tensor_sizes(file))
    tied = config.get("tie_word_embeddings") is True and any("embed" in name for name in sizes)
    return sum(size for name, size in sizes.items() if not (tied and name == "lm_head.weight"))


def _tensor_sizes(file: Path) -> dict[str, int]:
    """Elements of each tensor of a safetensors file: 8 bytes of header length, a JSON header, then the data.

    Raises:
        ModelError: the header does not parse, or the data it speaks of are not all there.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if length < size else b""
    try:
        tensors = {name: tensor for name, tensor in json.loads(header).items() if name != "__metadata__"}
        data_bytes = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        sizes = {name: math.prod(tensor["shape"]) for name, tensor in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(file, "its header is not that of a safetensors file") from error
    if 8 + length + data_bytes != size:
        raise _corrupt(file, f"{size:,} bytes where its header speaks of {8 + length + data_bytes:,}")
    return sizes


def _corrupt(file: Path, what: str) -> ModelError:
    return ModelError("corrupt_model", f"{file} is damaged or cut short ({what}). Fetch it again.", param="model")


def context_length(directory: Path, config: Mapping[str, Any]) -> int:
    """From config.json; models of several parts keep it with the text part.

    LongRoPE has other frequencies beyond the length that the model was first trained at, so that the same tokens differ
    in a longer text; up to there rows that are packed, and texts that grow, are exact.
    """
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        rope = part.get("rope_parameters") or part.get("rope_scaling") or {}
        first = rope.get("original_max_position_embeddings", part.get("original_max_position_embeddings"))
        if LONG_ROPE & {rope.get("rope_type"), rope.get("type")} and isinstance(first, int):
            return first
        for key in CONTEXT_KEYS:
            if isinstance(part.get(key), int):
                return int(part[key])
    raise ModelError(
        "no_context_length", f"{directory}/config.json has none of {', '.join(CONTEXT_KEYS)}.", param="model"
    )


def json_object(path: Path) -> Mapping[str, Any]:
    """A file's JSON object.

    Raises:
        ModelError: corrupt_model.
    """
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError("corrupt_model", f"{path} is not JSON: {error}.", param="model") from error
    if not isinstance(value, dict):
        raise ModelError("corrupt_model", f"{path} is not a JSON object.", param="model")
    return value


def added_tokens(directory: Path) -> tuple[int, ...]:
    """The tokens that the model was given on import."""
    file = directory / ADDED_TOKENS_FILE
    return tuple(json_object(file)["added_tokens"]) if file.is_file() else ()
