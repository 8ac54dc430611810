"""The base model as one function: packed tokens in, logits of chosen rows out.

Knows weights, adapters and the model family's code; knows nothing of sequences, sampling or scheduling.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from tunewise.errors import ModelError
from tunewise.modeling.loops import add_adapters, array, use_threads
from tunewise.serve import attention
from tunewise.serve.adapters import NO_ADAPTER, Adapter, AdapterRows, Bank, Segment
from tunewise.serve.attention import DecodeGroup, PromptSpan, Seen, StepLayout
from tunewise.serve.kernels import native_bfloat16
from tunewise.serve.kv import KvShape, Strip
from tunewise.serve.linear import PackedLinear, pack
from tunewise.serve.proof import agrees
from tunewise.serve.token_rows import RowAdapters, RowEmbedding, RowHead
from tunewise.serve.trunk import Trunk, trunk_of

disable_progress_bar()  # type: ignore[no-untyped-call]

WARM_UP_TOKENS = 16
SLOTS_AT_ONCE = 4  # by which the adapters' bank grows


class Network:
    """A loaded base model and its adapters. Only one thread may use it."""

    def __init__(self, directory: Path, dtype: torch.dtype) -> None:
        """Load safetensors from `directory`, with no network.

        Raises:
            ModelError: the directory is no model, or of a family that cannot be hosted.
        """
        use_threads(torch.get_num_threads())
        self.dtype = dtype
        self._rows = AdapterRows()
        self._model = _load(directory, dtype)
        self._layers: list[PackedLinear] = pack(self._model, self._rows)
        self._paths = {path for layer in self._layers for path in layer.paths}
        self._bank: list[int] = []
        self._row_adapters = RowAdapters()
        self._embedding, self._head = _with_rows(self._model, self._row_adapters, dtype)
        config = self._model.config.get_text_config()
        self._is_tied: bool = config.tie_word_embeddings
        self._layer_count: int = config.num_hidden_layers
        self.context_length = _context_length(config)
        self.vocabulary: int = config.vocab_size
        seen = self._probe()
        self.kv_shape = KvShape(self._layer_count, seen[0].kv_heads, seen[0].head_dim, dtype)
        self._trunk = self._proved_trunk(seen)

    @property
    def has_trunk(self) -> bool:
        """Whether the layers are computed by `serve.trunk`, not by the family's own code."""
        return self._trunk is not None

    @torch.inference_mode()
    def forward(self, ids: Tensor, positions: Tensor, layout: StepLayout, picked: Tensor) -> Tensor:
        """`ids`, `positions`: (tokens,); `picked`: (rows,) → float32 logits (rows, vocabulary)."""
        if len(self._row_adapters.tokens):
            self._row_adapters.picked = self._row_adapters.tokens[picked]
        if self._trunk is None:
            return self._by_family(ids, positions, layout, picked)
        return self._by_trunk(self._trunk, ids, positions, layout, picked)

    def _by_trunk(self, trunk: Trunk, ids: Tensor, positions: Tensor, layout: StepLayout, picked: Tensor) -> Tensor:
        hidden = self._embedding[1](ids[None])[0]
        logits: Tensor = self._head[1](trunk.forward(hidden, positions, layout, picked)[None])[0]
        return logits.float()

    def _by_family(self, ids: Tensor, positions: Tensor, layout: StepLayout, picked: Tensor) -> Tensor:
        output = self._model(
            input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=picked, layout=layout
        )
        logits: Tensor = output.logits[0]
        return logits.float()

    def route(self, adapters: Sequence[int], decode_rows: int) -> None:
        """Say which adapter each row of the next batch uses; the first `decode_rows` are one of each running answer."""
        self._row_adapters.tokens = torch.tensor(adapters, dtype=torch.long)
        self._rows.segments = [
            Segment(start + decode_rows, end + decode_rows, key)
            for start, end, key in _segments(adapters[decode_rows:])
        ]
        used = set(adapters[:decode_rows]) - {NO_ADAPTER}
        if used:
            self._fill_bank(used)
        slots = {key: slot for slot, key in enumerate(self._bank)}
        single = sorted((slots[key], row) for row, key in enumerate(adapters[:decode_rows]) if key in used)
        self._rows.slots, self._rows.single = np.array(single, np.int64).reshape(-1, 2).T.copy()

    def put_adapter(self, key: int, adapter: Adapter) -> None:
        """Hold an adapter under `key`.

        Raises:
            ModelError: it was made for another model.
        """
        self._check_fits(adapter)
        self._check_rows_fit(adapter)
        for layer in self._layers:
            layer.lora.put(key, adapter.pairs)
        for path, rows in adapter.rows.items():
            if path == self._embedding[0]:
                self._embedding[1].bank.put(key, rows)
            if path == self._head[0] or self._is_tied:
                self._head[1].bank.put(key, rows)

    def drop_adapter(self, key: int) -> None:
        """Let an adapter go."""
        for layer in self._layers:
            layer.lora.drop(key)
        self._embedding[1].bank.drop(key)
        self._head[1].bank.drop(key)
        self._bank = [NO_ADAPTER if banked == key else banked for banked in self._bank]

    def _fill_bank(self, used: set[int]) -> None:
        """See that the bank holds these; what is new takes places of others that are not in use, or more places."""
        missing = sorted(used - set(self._bank))
        if not missing:
            return
        free = [slot for slot, key in enumerate(self._bank) if key not in used]
        free.sort(key=lambda slot: self._bank[slot] != NO_ADAPTER)  # empty ones first
        if len(free) < len(missing):
            more = -(-(len(missing) - len(free)) // SLOTS_AT_ONCE) * SLOTS_AT_ONCE
            free += range(len(self._bank), len(self._bank) + more)
            self._bank += [NO_ADAPTER] * more
        for slot, key in zip(free, missing, strict=False):
            self._bank[slot] = key
        for layer in self._layers:
            layer.lora.fill(self._bank)

    def _check_fits(self, adapter: Adapter) -> None:
        sizes = {
            path: (out, layer.in_features)
            for layer in self._layers
            for path, out in zip(layer.paths, layer.sizes, strict=True)
        }
        for path, pair in adapter.pairs.items():
            expected = sizes.get(path)
            if expected is None:
                message = f"adapter {adapter.name!r} changes {path!r}, which is no linear layer of this base model"
                raise ModelError("adapter_mismatch", message, param="lora_path")
            if (pair.up.shape[0], pair.down.shape[1]) != expected:
                message = (
                    f"adapter {adapter.name!r}: {path} is {pair.up.shape[0]}×{pair.down.shape[1]}, "
                    f"the base model's is {expected[0]}×{expected[1]}; it was trained on another base model"
                )
                raise ModelError("adapter_mismatch", message, param="lora_path")

    def _check_rows_fit(self, adapter: Adapter) -> None:
        width: int = self._model.config.get_text_config().hidden_size
        for path, rows in adapter.rows.items():
            fits = rows.values.shape[1] == width and int(rows.indices.max()) < self.vocabulary
            if path not in {self._embedding[0], self._head[0]} or not fits:
                message = (
                    f"adapter {adapter.name!r} brings rows {tuple(rows.values.shape)} for {path!r}, up to token "
                    f"{int(rows.indices.max())}; this base model has {self.vocabulary} tokens of width {width}"
                )
                raise ModelError("adapter_mismatch", message, param="lora_path")

    @torch.inference_mode()
    def _probe(self) -> list[Seen]:
        """What each layer asks of attention; families that do not call ours, or not always alike, are refused."""
        layout, one = StepLayout(seen={}), torch.zeros(1, dtype=torch.long)
        self._by_family(one, one, layout, one)
        seen = layout.seen or {}
        if len(seen) != self._layer_count or len({(each.kv_heads, each.head_dim) for each in seen.values()}) != 1:
            message = (
                f"{type(self._model).__name__}: not every layer is plain attention of one shape; it cannot be hosted"
            )
            raise ModelError("model_unsupported", message)
        return [seen[layer] for layer in range(self._layer_count)]

    @torch.inference_mode()
    def _proved_trunk(self, seen: Sequence[Seen]) -> Trunk | None:
        """The model's trunk in fewer calls, where it has one whose layers compute what the family's own code does."""
        trunk = trunk_of(self._model, seen)
        if trunk is None:
            return None
        own: Any = self._model
        limits = (self.vocabulary, self.context_length)
        try:
            return trunk if agrees(trunk, own.model.layers, self._by_family_all, self.kv_shape, limits) else None
        except (RuntimeError, TypeError, ValueError):  # of another shape or signature than the names said
            return None

    def _by_family_all(self, ids: Tensor, positions: Tensor, layout: StepLayout) -> Tensor:
        return self._by_family(ids, positions, layout, torch.arange(len(ids)))

    def warm_up(self) -> None:
        """Compute a short prompt, then a token after it, so that the first request does not pay for set-up."""
        strip = Strip(self.kv_shape, WARM_UP_TOKENS)
        ids, positions = torch.zeros(WARM_UP_TOKENS, dtype=torch.long), torch.arange(WARM_UP_TOKENS)
        self.forward(ids, positions, StepLayout(spans=[PromptSpan(0, WARM_UP_TOKENS, strip, 0)]), positions[-1:])
        for answers in (1, 2):  # Numba compiles for the layout of an array, and one row's is another
            kv = self.kv_shape.empty(answers, capacity=WARM_UP_TOKENS)
            last = torch.full((answers,), WARM_UP_TOKENS - 1)
            rows = torch.arange(answers)
            self.forward(rows, last, StepLayout(groups=[DecodeGroup(0, answers, kv, last)]), rows)
        bank = Bank.empty(1, 1, [1], [1], self.dtype)
        row = torch.zeros(1, 1, dtype=self.dtype)
        add_adapters(array(row), np.array([0]), np.array([0]), bank.arrays, array(row))


def best_dtype() -> torch.dtype:
    """bfloat16 where the machine multiplies it in hardware; elsewhere float32, which is several times as fast there."""
    return torch.bfloat16 if native_bfloat16() else torch.float32


def _load(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, local_files_only=True, use_safetensors=True, attn_implementation=attention.NAME
        )
    except (OSError, ValueError) as error:
        raise ModelError("model_unreadable", f"{directory} cannot be loaded as a language model: {error}") from error
    return model


def _with_rows(
    model: PreTrainedModel, batch: RowAdapters, dtype: torch.dtype
) -> tuple[tuple[str, RowEmbedding], tuple[str, RowHead]]:
    """Put in place what can hold an adapter's own rows; both with their path in the model."""
    old = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[no-untyped-call]
    paths = [next(path for path, module in model.named_modules() if module is each) for each in old]
    embedding, head = RowEmbedding(old[0], batch, dtype), RowHead(old[1], batch, dtype)
    for path, module in zip(paths, (embedding, head), strict=True):
        model.set_submodule(path, module)
    return (paths[0], embedding), (paths[1], head)


def _context_length(config: PreTrainedConfig) -> int:
    """Tokens up to which rotary frequencies stay as they are; beyond, "dynamic" and "longrope" change them by the
    longest sequence of a batch, and so for all others too.
    """
    longest: int = config.max_position_embeddings
    rope: dict[str, Any] = config.to_dict().get("rope_parameters") or {}
    by_layer = [part for part in rope.values() if isinstance(part, dict)] or [rope]
    first: list[int] = [
        part["original_max_position_embeddings"] for part in by_layer if part.get("rope_type") == "longrope"
    ]
    return min([longest, *first])


def _segments(adapters: Sequence[int]) -> list[Segment]:
    segments: list[Segment] = []
    start = 0
    for row in range(1, len(adapters) + 1):
        if row == len(adapters) or adapters[row] != adapters[start]:
            if adapters[start] != NO_ADAPTER:
                segments.append(Segment(start, row, adapters[start]))
            start = row
    return segments
