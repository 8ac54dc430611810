"""A model's tokenizer as GGUF keeps it: tokens, their types, merges or scores, special tokens, how words are cut.

llama.cpp has its ways of cutting words built in, by name (`tokenizer.ggml.pre`). A tokenizer is given the name of the
one that is its own, and refused where none is: a file that reads numbers otherwise than the model was trained to looks
right and answers wrong. Knows `tokenizer.json`; nothing of weights.
"""

import json
from pathlib import Path
from typing import Any

import gguf

from tunewise.data.template import Template, chat_template
from tunewise.errors import ModelError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS, _REST = r"|[^\r\n\p{L}\p{N}]?\p{L}+", r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = {
    f"{_CONTRACTIONS}{_LETTERS}|\\p{{N}}{{1,3}}{_REST}": "llama-bpe",
    f"{_CONTRACTIONS}{_LETTERS}|\\p{{N}}{_REST}": "qwen2",
}
"""The regular expressions of Llama 3 and of Qwen 2 and 3, and llama.cpp's names for them."""


def add_tokenizer(writer: gguf.GGUFWriter, directory: Path, template: Template, vocabulary: int) -> None:
    """Write everything of the tokenizer, for an embedding of `vocabulary` rows.

    Raises:
        ModelError: unknown_tokenizer.
    """
    tokenizer: dict[str, Any] = json.loads((directory / "tokenizer.json").read_bytes())
    model = tokenizer["model"]
    tokens, types = _tokens(tokenizer, vocabulary)
    if model["type"] == "BPE" and model.get("byte_fallback"):
        _require_blanks_kept(tokenizer, directory)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(_scores(model, tokens))
        writer.add_add_space_prefix(False)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(way_of_cutting(tokenizer, directory))
        writer.add_token_list(tokens)
        writer.add_token_merges([" ".join(pair) for pair in _pairs(model)])
    writer.add_token_types(types)
    _add_special(writer, directory, template)
    writer.add_chat_template(chat_template(directory))


def way_of_cutting(tokenizer: dict[str, Any], directory: Path) -> str:
    """llama.cpp's name of how a byte-level tokenizer cuts a text into words.

    Raises:
        ModelError: unknown_tokenizer.
    """
    steps = tokenizer.get("pre_tokenizer") or {}
    match steps.get("pretokenizers", [steps]):
        case [{"type": "ByteLevel", "use_regex": True, "add_prefix_space": False}]:
            return "gpt-2"
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "use_regex": True, "add_prefix_space": False},
        ]:
            return "smollm"
        case [
            {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False},
        ] if words in WORDS:
            return WORDS[words]
        case _:
            raise _unknown(directory, f"it cuts words by {json.dumps(steps)[:300]}")


def _require_blanks_kept(tokenizer: dict[str, Any], directory: Path) -> None:
    """Pieces whose blanks stand for themselves, as Gemma's; others put blanks before texts, at places of their own."""
    match tokenizer.get("normalizer"):
        case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
            return
        case {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}:
            return
        case other:
            raise _unknown(directory, f"it treats blanks by {json.dumps(other)[:300]}")


def _unknown(directory: Path, why: str) -> ModelError:
    return ModelError(
        "unknown_tokenizer",
        f"{directory / 'tokenizer.json'}: llama.cpp has no name for this tokenizer: {why}. Known are those of "
        "GPT-2, SmolLM2, Llama 3, Qwen 2 and 3, and Gemma; export merged and convert it with llama.cpp's own script",
        param="--to",
    )


def _tokens(tokenizer: dict[str, Any], vocabulary: int) -> tuple[list[str], list[gguf.TokenType]]:
    """All tokens by their number; rows of the embedding that no token has are unused."""
    added = {entry["id"]: entry for entry in tokenizer["added_tokens"]}
    by_id = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    by_id |= {number: entry["content"] for number, entry in added.items()}
    unknown = tokenizer["model"].get("unk_token")
    has_bytes = bool(tokenizer["model"].get("byte_fallback"))
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(vocabulary)]
    types = []
    for number, token in enumerate(tokens):
        if number not in by_id:
            types.append(gguf.TokenType.UNUSED)
        elif has_bytes and token == unknown:
            types.append(gguf.TokenType.UNKNOWN)
        elif number in added:
            is_control = added[number]["special"]
            types.append(gguf.TokenType.CONTROL if is_control else gguf.TokenType.USER_DEFINED)
        elif has_bytes and len(token) == 6 and token.startswith("<0x"):
            types.append(gguf.TokenType.BYTE)
        else:
            types.append(gguf.TokenType.NORMAL)
    return tokens, types


def _pairs(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Merges in their order; older files have each as one text."""
    parts = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in parts]


def _scores(model: dict[str, Any], tokens: list[str]) -> list[float]:
    """llama.cpp joins the two pieces whose whole has the highest score: the earlier a merge, the higher."""
    first: dict[str, int] = {}
    for rank, (left, right) in enumerate(_pairs(model)):
        first.setdefault(left + right, rank)
    return [-float(first.get(token, len(first))) for token in tokens]


def _add_special(writer: gguf.GGUFWriter, directory: Path, template: Template) -> None:
    """llama.cpp ends at `eos` and `eot`, and at tokens whose names it knows for ends."""
    file = directory / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(file.read_bytes()) if file.is_file() else {}
    for name, add in (
        ("bos_token", writer.add_bos_token_id),
        ("eos_token", writer.add_eos_token_id),
        ("unk_token", writer.add_unk_token_id),
        ("pad_token", writer.add_pad_token_id),
    ):
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        number = None if text is None else template.tokenizer.token_to_id(text)
        if number is not None:
            add(number)
    for end in template.turn_end:
        writer.add_eot_token_id(end)
    writer.add_add_bos_token(bool(template.bos))
    writer.add_add_eos_token(False)
