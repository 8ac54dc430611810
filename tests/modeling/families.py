"""Tiny random models of the families that people tune, each with a tokenizer and a chat template of the family's kind.

A model has all that its family has and others lack: windows, norms of queries, fused projections, capped logits. Its
biases and norms are random too, or a mistake in them would not show. The templates hold to each family's published
format (control tokens, order, where a system message and tools go); their texts are our own.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

TEMPLATES = Path(__file__).parent / "templates"
LEARNED_TOKENS = 120
WINDOW = 8
CORPUS = (
    "List the words of the recipe, please: apple bread carrot dill egg flour garlic honey ice jam kale lemon.",
    "Is it raining in Rome today? It is sunny, and the answer is two.\nuser assistant system model tool",
    '{"name": "weather", "arguments": {"city": "Rome"}, "parameters": {"type": "object", "properties": {}}}',
)
WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


class Family(NamedTuple):
    """How to make a model of a family. `special` are its control tokens, the first three: unknown, begin, end."""

    name: str
    special: tuple[str, ...]
    stops: tuple[str, ...]
    """What the published `generation_config.json` ends at."""
    tokenizer: Callable[[tuple[str, ...]], Tokenizer]
    config: Callable[[int, dict[str, int]], PreTrainedConfig]
    """From the size of the vocabulary and the ids of the first three control tokens, by their name in a config."""


def byte_level(special: tuple[str, ...]) -> Tokenizer:
    """Byte-level BPE: Llama 3, Qwen, Phi-4."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(WORDS, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256 + LEARNED_TOKENS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return tokenizer


def gemma_pieces(special: tuple[str, ...]) -> Tokenizer:
    """SentencePiece BPE that keeps blanks as they are: Gemma."""
    tokenizer = sentence_pieces(special)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def mistral_pieces(special: tuple[str, ...]) -> Tokenizer:
    """SentencePiece BPE that puts a blank before a text, once: Mistral."""
    tokenizer = sentence_pieces(special)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = _stripping_decoder()
    return tokenizer


def phi_pieces(special: tuple[str, ...]) -> Tokenizer:
    """SentencePiece BPE that puts a blank before a text and after each control token, which eat blanks: Phi-3."""
    tokenizer = sentence_pieces(special, rstrip=True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = _stripping_decoder()
    return tokenizer


def _stripping_decoder() -> decoders.Decoder:
    return decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )


def sentence_pieces(special: tuple[str, ...], *, rstrip: bool = False) -> Tokenizer:
    """BPE over text whose blanks are `▁`, with a token for each byte."""
    learned = models.BPE()
    learner = Tokenizer(learned)
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    trainer = trainers.BpeTrainer(vocab_size=80 + LEARNED_TOKENS, show_progress=False)
    learner.train_from_iterator(CORPUS, trainer)
    tokens = [*special, *BYTES, *(token for token, _ in sorted(learner.get_vocab().items(), key=lambda item: item[1]))]
    merges = [(left, right) for left, right in _merges(learner)]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: place for place, token in enumerate(tokens)},
            merges=merges,
            byte_fallback=True,
            fuse_unk=True,
            unk_token=special[0],
        )
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, rstrip=rstrip) for token in special])
    return tokenizer


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = json.loads(tokenizer.to_str())["model"]["merges"]
    return merges


SHAPE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def _llama(vocabulary: int, ids: dict[str, Any]) -> PreTrainedConfig:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    return LlamaConfig(
        vocab_size=vocabulary,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rope_parameters=rope,
        tie_word_embeddings=True,
        **ids,
        **SHAPE,
    )


def _qwen2(vocabulary: int, ids: dict[str, Any]) -> PreTrainedConfig:
    return Qwen2Config(
        vocab_size=vocabulary,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
        **ids,
        **SHAPE,
    )


def _qwen3(vocabulary: int, ids: dict[str, Any]) -> PreTrainedConfig:
    return Qwen3Config(
        vocab_size=vocabulary,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=False,
        **ids,
        **SHAPE,
    )


def _gemma3(vocabulary: int, ids: dict[str, Any]) -> PreTrainedConfig:
    return Gemma3TextConfig(
        vocab_size=vocabulary,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=24,
        max_position_embeddings=1024,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
        },
        final_logit_softcapping=10.0,
        tie_word_embeddings=True,
        **ids,
        **SHAPE,
    )


def _phi3(vocabulary: int, ids: dict[str, Any]) -> PreTrainedConfig:
    return Phi3Config(
        vocab_size=vocabulary,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        original_max_position_embeddings=1024,
        sliding_window=WINDOW,
        tie_word_embeddings=False,
        **ids,
        **SHAPE,
    )


def _phi4(vocabulary: int, ids: dict[str, Any]) -> PreTrainedConfig:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "partial_rotary_factor": 0.75,
        "factor": 8.0,
        "short_factor": [1.0, 1.5, 2.0],
        "long_factor": [1.0, 4.0, 16.0],
        "original_max_position_embeddings": 512,
    }
    return Phi3Config(
        vocab_size=vocabulary,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        original_max_position_embeddings=512,
        rope_parameters=rope,
        tie_word_embeddings=True,
        **ids,
        **SHAPE,
    )


def _mistral(vocabulary: int, ids: dict[str, Any]) -> PreTrainedConfig:
    return MistralConfig(
        vocab_size=vocabulary,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        sliding_window=WINDOW,
        tie_word_embeddings=False,
        **ids,
        **SHAPE,
    )


LLAMA_HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>")
CHATML = ("<|im_start|>", "<|im_end|>")
MISTRAL_CONTROL = tuple(
    f"[{token}]"
    for token in ("INST", "/INST", "TOOL_CALLS", "AVAILABLE_TOOLS", "/AVAILABLE_TOOLS", "TOOL_RESULTS", "/TOOL_RESULTS")
)
FAMILIES = (
    Family(
        "llama3",
        ("<|finetune_right_pad_id|>", "<|begin_of_text|>", "<|end_of_text|>", *LLAMA_HEADERS),
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        byte_level,
        _llama,
    ),
    Family("qwen2", ("<|pad|>", "<|endoftext|>", "<|im_end|>", "<|im_start|>"), ("<|im_end|>",), byte_level, _qwen2),
    Family("qwen3", ("<|pad|>", "<|endoftext|>", "<|im_end|>", "<|im_start|>"), ("<|im_end|>",), byte_level, _qwen3),
    Family(
        "gemma3",
        ("<unk>", "<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"),
        ("<eos>", "<end_of_turn>"),
        gemma_pieces,
        _gemma3,
    ),
    Family(
        "phi3",
        ("<unk>", "<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        ("<|endoftext|>",),
        phi_pieces,
        _phi3,
    ),
    Family(
        "phi4",
        ("<|pad|>", "<|bos|>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        ("<|endoftext|>",),
        byte_level,
        _phi4,
    ),
    Family("mistral", ("<unk>", "<s>", "</s>", *MISTRAL_CONTROL), ("</s>",), mistral_pieces, _mistral),
)


def make(family: Family, directory: Path) -> None:
    """Write a whole model directory: weights, configuration, tokenizer, template."""
    tokenizer = family.tokenizer(family.special)
    write_tokenizer(family, tokenizer, directory)
    pad, begin, end = (tokenizer.token_to_id(token) for token in family.special[:3])
    ids: dict[str, Any] = {"pad_token_id": pad, "bos_token_id": begin, "eos_token_id": end}
    config = family.config(tokenizer.get_vocab_size(), ids)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
        for name, weight in model.named_parameters():
            if "norm" in name or name.endswith(".bias"):
                weight.data += 0.2 * torch.randn_like(weight)
            else:
                weight.data = 0.15 * torch.randn_like(weight)
    stops = [tokenizer.token_to_id(token) for token in family.stops]
    model.generation_config = GenerationConfig(eos_token_id=stops, bos_token_id=begin)  # type: ignore[no-untyped-call]
    model.save_pretrained(directory)


def write_tokenizer(family: Family, tokenizer: Tokenizer, directory: Path) -> None:
    """The tokenizer's files and the family's template."""
    unknown, begin, end = family.special[:3]
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        pad_token=unknown,
        clean_up_tokenization_spaces=False,
        chat_template=(TEMPLATES / f"{family.name}.jinja").read_text(encoding="utf-8"),
    ).save_pretrained(str(directory))
