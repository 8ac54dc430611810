"""The base model as one function: packed tokens in, logits of chosen rows out.

Knows weights, adapters and the model family's code; knows nothing of sequences, sampling or scheduling.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from tunewise.errors import ModelError
from tunewise.serve import attention
from tunewise.serve.adapters import BANK_ROWS_MAX, NO_ADAPTER, Adapter, AdapterRows, RowGroups, Segment
from tunewise.serve.attention import PromptSpan, StepLayout
from tunewise.serve.kernels import native_bfloat16
from tunewise.serve.kv import KvShape, Strip
from tunewise.serve.linear import PackedLinear, pack
from tunewise.serve.token_rows import RowAdapters, RowEmbedding, RowHead

disable_progress_bar()  # type: ignore[no-untyped-call]

SEPARATE_SEGMENTS = 2  # up to so many adapters, one product each is cheaper than a batched one


class Network:
    """A loaded base model and its adapters. Only one thread may use it."""

    def __init__(self, directory: Path, dtype: torch.dtype) -> None:
        """Load safetensors from `directory`, with no network.

        Raises:
            ModelError: the directory is no model, or of a family that cannot be hosted.
        """
        self.dtype = dtype
        self._rows = AdapterRows()
        self._model = _load(directory, dtype)
        self._layers: list[PackedLinear] = pack(self._model, self._rows)
        self._paths = {path for layer in self._layers for path in layer.paths}
        self._bank: tuple[int, ...] = ()
        self._row_adapters = RowAdapters()
        self._embedding, self._head = _with_rows(self._model, self._row_adapters, dtype)
        config = self._model.config.get_text_config()
        self._is_tied: bool = config.tie_word_embeddings
        self._layer_count: int = config.num_hidden_layers
        self.context_length = _context_length(config)
        self.vocabulary: int = config.vocab_size
        self.kv_shape = self._probe()

    @torch.inference_mode()
    def forward(self, ids: Tensor, positions: Tensor, layout: StepLayout, picked: Tensor) -> Tensor:
        """`ids`, `positions`: (tokens,); `picked`: (rows,) → float32 logits (rows, vocabulary)."""
        if len(self._row_adapters.tokens):
            self._row_adapters.picked = self._row_adapters.tokens[picked]
        output = self._model(
            input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=picked, layout=layout
        )
        logits: Tensor = output.logits[0]
        return logits.float()

    def route(self, adapters: Sequence[int], decode_rows: int) -> None:
        """Say which adapter each row of the next batch uses; the first `decode_rows` may be computed as groups."""
        self._rows.segments, self._rows.groups = _segments(adapters), None
        self._row_adapters.tokens = torch.tensor(adapters, dtype=torch.long)
        if len(self._rows.segments) <= SEPARATE_SEGMENTS:
            return
        used = sorted(set(adapters[:decode_rows]) - {NO_ADAPTER})
        longest = max((adapters[:decode_rows].count(key) for key in used), default=0)
        if len(used) < 2 or longest * len(used) > BANK_ROWS_MAX:
            return
        self._fill_bank(used)
        self._rows.groups = _grouped(adapters[:decode_rows], self._bank)
        self._rows.segments = [
            Segment(start + decode_rows, end + decode_rows, key)
            for start, end, key in _segments(adapters[decode_rows:])
        ]

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
        if key in self._bank:
            self._bank = ()

    def _fill_bank(self, used: list[int]) -> None:
        if set(used) <= set(self._bank) and len(self._bank) <= 2 * len(used):
            return
        self._bank = tuple(used)
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

    def _probe(self) -> KvShape:
        """Learn the shape of keys by computing one token; families that do not call our attention are refused."""
        layout = StepLayout(seen={})
        self.forward(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long), layout, torch.tensor([0]))
        seen, layers = layout.seen or {}, self._layer_count
        if len(seen) != layers or len(set(seen.values())) != 1:
            message = (
                f"{type(self._model).__name__}: not every layer is plain attention of one shape; it cannot be hosted"
            )
            raise ModelError("model_unsupported", message)
        kv_heads, head_dim = seen[0]
        return KvShape(layers, kv_heads, head_dim, self.dtype)

    def warm_up(self) -> None:
        """Compute a short prompt once, so that the first request does not pay for kernel set-up."""
        strip = Strip(self.kv_shape, 16)
        ids = torch.zeros(16, dtype=torch.long)
        self.forward(ids, torch.arange(16), StepLayout(spans=[PromptSpan(0, 16, strip, 0)]), torch.tensor([15]))


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


def _grouped(adapters: Sequence[int], bank: Sequence[int]) -> RowGroups:
    grouped: dict[int, list[int]] = {key: [] for key in bank}
    for row, key in enumerate(adapters):
        if key != NO_ADAPTER:
            grouped[key].append(row)
    longest = max(len(group) for group in grouped.values())
    members = [row for group in grouped.values() for row in group]
    places = [slot * longest + at for slot, group in enumerate(grouped.values()) for at in range(len(group))]
    rows = [group + [0] * (longest - len(group)) for group in grouped.values()]
    return RowGroups(torch.tensor(rows), torch.tensor(members), torch.tensor(places))
