"""LoRA adapters by name: read from PEFT directories, held beside the shared base, applied per row of a batch.

Knows PEFT's file format and which rows belong to which adapter; knows nothing of requests or HTTP. The rows of
a prompt are one matrix product with its adapter; the rows of running answers, each with an adapter of its own, are one
loop over the adapters in use, which live in a small bank of equal ranks. Which adapters
are in memory is `serve.shelf`'s matter.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from tunewise.errors import ModelError
from tunewise.modeling.dora import row_norms
from tunewise.modeling.loops import RANKS_AT_ONCE, BankArrays, add_adapters, array
from tunewise.serve.token_rows import TokenRows

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
NO_ADAPTER = -1
WEIGHT_NAME = re.compile(
    r"^(?:base_model\.model\.)?(?P<path>.+)\.lora_(?:(?P<side>[AB])\.weight|(?P<magnitude>magnitude_vector)(?:\.weight)?)$"
)
IDENTITY_ROWS = 256  # of the identity that a packed weight's rows are read with, at once
ROWS_NAME = re.compile(r"^(?:base_model\.model\.)?(?P<path>.+)\.token_adapter\.trainable_tokens_delta$")

REFUSED_FEATURES: dict[str, tuple[Any, ...]] = {
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    "megatron_config": (None,),
}
"""PEFT options that change what an adapter computes, and the values under which they change nothing."""


class LoraPair(NamedTuple):
    """One layer's adapter: `down` (rank, in_features) and `up` (out_features, rank), the scale already in `up`.

    `magnitude`, (out_features,), is DoRA's: the length of each row of the weight, the pair's product added to it.
    """

    down: Tensor
    up: Tensor
    magnitude: Tensor | None = None


class Adapter(NamedTuple):
    """An adapter as read from its directory."""

    name: str
    path: Path
    pairs: dict[str, LoraPair]
    rows: dict[str, TokenRows] = {}  # noqa: RUF012  # read only
    """Of added tokens, by the embedding's or head's path."""


class Segment(NamedTuple):
    """Consecutive rows of a packed batch that belong to one adapter."""

    start: int
    end: int
    adapter: int


@dataclass
class AdapterRows:
    """Which rows of the current batch belong to which adapter; set before each forward pass.

    `single` rows, one of each running answer, have their `slots` in the bank and are sorted by them, so that a core
    reads few adapters; rows of prompts are `segments`, computed one by one.
    """

    single: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    slots: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    segments: list[Segment] = field(default_factory=list)


class Up(NamedTuple):
    """The way back of one of the layers that are packed together: `weight` (rank, out), its ranks and columns."""

    part: int
    ranks: slice
    columns: slice
    weight: Tensor


class Held(NamedTuple):
    """An adapter's part in one packed layer: `down` (in, sum of ranks), and for each joined layer its way back.

    Where it has magnitudes, `gain` (out,) is what the frozen layer's output is multiplied by first, and `shift` (out,)
    gives back what that takes from the bias.
    """

    down: Tensor
    ups: tuple[Up, ...]
    gain: Tensor | None
    shift: Tensor | None

    def rank_of(self, part: int) -> int:
        """Of one of the joined layers; 0 where it has no adapter."""
        return next((up.weight.shape[0] for up in self.ups if up.part == part), 0)


class Bank(NamedTuple):
    """The adapters of one packed layer that rows of the current batch use, padded to the largest ranks with zeros.

    `arrays` says what they are, and is the same memory; a column of `up` belongs to one of the joined layers.
    """

    down: Tensor
    up: Tensor
    gain: Tensor
    shift: Tensor
    arrays: BankArrays

    @classmethod
    def empty(cls, slots: int, width: int, sizes: Sequence[int], ranks: Sequence[int], dtype: torch.dtype) -> "Bank":
        """Room for so many adapters."""
        out, room = sum(sizes), [_whole(rank) for rank in ranks]
        down = torch.zeros(slots, sum(room), width, dtype=dtype)
        up = torch.zeros(slots, max(room), out, dtype=dtype)
        gain, shift = torch.ones(slots, out, dtype=dtype), torch.zeros(slots, out, dtype=dtype)
        own_ranks = np.zeros((slots, len(room)), np.int64)
        weights = (array(down), array(up), array(gain), array(shift))
        return cls(down, up, gain, shift, BankArrays(*weights, own_ranks, np.array(room), np.array(sizes)))

    def put(self, slot: int, own: Held | None) -> None:
        """Copy one in; None for one that does not touch this layer."""
        for each, value in ((self.down, 0.0), (self.up, 0.0), (self.gain, 1.0), (self.shift, 0.0)):
            each[slot] = value
        self.arrays.ranks[slot] = 0
        if own is None:
            return
        for up in own.ups:
            rank = up.weight.shape[0]
            start = int(self.arrays.room[: up.part].sum())
            self.arrays.ranks[slot, up.part] = _whole(rank)
            self.down[slot, start : start + rank] = own.down[:, up.ranks].T
            self.up[slot, :rank, up.columns] = up.weight
        if own.gain is not None and own.shift is not None:
            self.gain[slot], self.shift[slot] = own.gain, own.shift


class LoraBank:
    """The adapters of one packed layer: each adapter's own weights, and a bank of those in use now.

    `multiply`: the frozen layer itself, (rows, in) → (rows, out), the `bias` added.
    """

    def __init__(
        self,
        paths: Sequence[str],
        in_features: int,
        sizes: Sequence[int],
        multiply: Callable[[Tensor], Tensor],
        bias: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        self._paths = tuple(paths)
        self._in = in_features
        self._sizes = tuple(sizes)
        self._multiply = multiply
        self._bias = bias
        self._dtype = dtype
        self._own: dict[int, Held] = {}
        self._banked: list[int] = []
        self._bank = Bank.empty(0, in_features, sizes, [0] * len(sizes), dtype)
        self._squares: Tensor | None = None

    def put(self, key: int, pairs: Mapping[str, LoraPair]) -> None:
        """Hold an adapter's weights for this layer."""
        mine = [(place, pairs[path]) for place, path in enumerate(self._paths) if path in pairs]
        if not mine:
            return
        gain, shift = self._gain(mine)
        down = torch.cat([pair.down for _, pair in mine]).to(self._dtype)
        ups, rank = [], 0
        for place, pair in mine:
            ranks = slice(rank, rank + pair.down.shape[0])
            columns = slice(sum(self._sizes[:place]), sum(self._sizes[: place + 1]))
            up = pair.up.T.to(self._dtype)
            ups.append(Up(place, ranks, columns, (up if gain is None else up * gain[columns]).contiguous()))
            rank = ranks.stop
        self._own[key] = Held(down.T.contiguous(), tuple(ups), gain, shift)

    @torch.inference_mode()
    def _gain(self, mine: Sequence[tuple[int, LoraPair]]) -> tuple[Tensor | None, Tensor | None]:
        """DoRA's magnitudes over the lengths of the weight's rows; the rows are read off the frozen layer itself."""
        if all(pair.magnitude is None for _, pair in mine):
            return None, None
        bias = torch.zeros(sum(self._sizes), dtype=self._dtype) if self._bias is None else self._bias
        if self._squares is None:
            identity = torch.eye(self._in, dtype=self._dtype)
            parts = [identity[start : start + IDENTITY_ROWS] for start in range(0, self._in, IDENTITY_ROWS)]
            self._squares = torch.stack([(self._multiply(rows) - bias).float().square().sum(0) for rows in parts]).sum(
                0
            )
        gain = torch.ones(sum(self._sizes))
        for place, pair in mine:
            if pair.magnitude is not None:
                own = slice(sum(self._sizes[:place]), sum(self._sizes[: place + 1]))
                weight_down = (self._multiply(pair.down.to(self._dtype)) - bias)[:, own].T.float()
                gain[own] = pair.magnitude / row_norms(self._squares[own], weight_down, pair.down, pair.up)
        return gain.to(self._dtype), (bias * (1 - gain)).to(self._dtype)

    def drop(self, key: int) -> None:
        """Let an adapter's weights go."""
        self._own.pop(key, None)
        self._banked = [NO_ADAPTER if banked == key else banked for banked in self._banked]

    def fill(self, keys: Sequence[int]) -> None:
        """Make the bank hold these adapters, slot by slot; only what is not there yet is copied."""
        held = [self._own.get(key) for key in keys]
        ranks = [max((own.rank_of(part) for own in held if own), default=0) for part in range(len(self._sizes))]
        if len(keys) > len(self._banked) or list(map(_whole, ranks)) != self._bank.arrays.room.tolist():
            self._bank = Bank.empty(len(keys), self._in, self._sizes, ranks, self._dtype)
            self._banked = [NO_ADAPTER] * len(keys)
        for slot, (key, own) in enumerate(zip(keys, held, strict=True)):
            if self._banked[slot] != key:
                self._bank.put(slot, own)
                self._banked[slot] = key

    def add(self, output: Tensor, hidden: Tensor, rows: AdapterRows) -> None:
        """Add each row's adapter to `output` (..., tokens, out) in place. `hidden`: (..., tokens, in)."""
        if not self._own:
            return
        flat_in, flat_out = hidden.view(-1, hidden.shape[-1]), output.view(-1, output.shape[-1])
        if len(rows.single) and self._bank.down.shape[1]:
            add_adapters(array(flat_in), rows.single, rows.slots, self._bank.arrays, array(flat_out))
        for start, end, key in rows.segments:
            if (own := self._own.get(key)) is not None:
                if own.gain is not None and own.shift is not None:
                    flat_out[start:end].mul_(own.gain).add_(own.shift)
                low = flat_in[start:end] @ own.down
                for up in own.ups:
                    flat_out[start:end, up.columns].addmm_(low[:, up.ranks], up.weight)


def _whole(rank: int) -> int:
    """Room for a rank: the loop takes several at once."""
    return -(-rank // RANKS_AT_ONCE) * RANKS_AT_ONCE


def measure_adapter(path: Path, dtype: torch.dtype) -> int:
    """Bytes that an adapter takes in this number format, by the header of its file; 0 where that cannot be read."""
    try:
        with safe_open(path / WEIGHTS_FILE, framework="pt") as file:
            numbers: int = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
            return numbers * dtype.itemsize
    except (SafetensorError, OSError):
        return 0  # what is wrong with it, `read_adapter` says


def read_adapter(name: str, path: Path) -> Adapter:
    """Read what PEFT saved.

    Raises:
        ModelError: `adapter_not_found`, `adapter_unreadable`, or `adapter_unsupported` naming the option at fault.
    """
    config = _read_config(path)
    _refuse_unsupported(config, path)
    try:
        tensors = load_file(path / WEIGHTS_FILE)
    except FileNotFoundError as error:
        raise ModelError(
            "adapter_not_found", f"{path} has no {WEIGHTS_FILE}; save the adapter as safetensors"
        ) from error
    except (SafetensorError, OSError) as error:
        raise ModelError("adapter_unreadable", f"{path / WEIGHTS_FILE} cannot be read: {error}") from error
    rows = {match["path"]: tensors.pop(key) for key in list(tensors) if (match := ROWS_NAME.match(key))}
    return Adapter(name, path, _pairs(tensors, config, path), _token_rows(rows, config, path))


def _token_rows(rows: dict[str, Tensor], config: dict[str, Any], path: Path) -> dict[str, TokenRows]:
    named = config.get("trainable_token_indices") or {}
    found = {}
    for module, values in rows.items():
        indices = named if isinstance(named, list) else next((i for n, i in named.items() if module.endswith(n)), [])
        if values.ndim != 2 or len(indices) != len(values):
            message = f"{path}: {len(values)} rows for {module}, but trainable_token_indices names {len(indices)}"
            raise ModelError("adapter_unreadable", message, param="lora_path")
        found[module] = TokenRows(torch.tensor(indices), values.float())
    return found


def _read_config(path: Path) -> dict[str, Any]:
    file = path / CONFIG_FILE
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"{path} is not an adapter directory: it has no {CONFIG_FILE}"
        raise ModelError("adapter_not_found", message, param="lora_path") from error
    except (OSError, ValueError) as error:
        raise ModelError("adapter_unreadable", f"{file} cannot be read: {error}", param="lora_path") from error
    if not isinstance(config, dict):
        raise ModelError("adapter_unreadable", f"{file} is not a JSON object", param="lora_path")
    return config


def _refuse_unsupported(config: dict[str, Any], path: Path) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        message = f"{path}: peft_type is {kind!r}; only LORA adapters are hosted"
        raise ModelError("adapter_unsupported", message, param="lora_path")
    for option, harmless in REFUSED_FEATURES.items():
        value = config.get(option)
        if value not in harmless:
            message = f"{path}: {option}={value!r} is not supported; merge the adapter, or train without it"
            raise ModelError("adapter_unsupported", message, param="lora_path")


def _pairs(tensors: dict[str, Tensor], config: dict[str, Any], path: Path) -> dict[str, LoraPair]:
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = WEIGHT_NAME.match(name)
        if match is None or tensor.ndim != (1 if match["magnitude"] else 2):
            message = f"{path}: weight {name!r} of shape {tuple(tensor.shape)} is not a LoRA pair of a linear layer"
            raise ModelError("adapter_unsupported", message, param="lora_path")
        sides.setdefault(match["path"], {})[match["side"] or match["magnitude"]] = tensor
    pairs = {}
    wanted = {"A", "B"} | ({"magnitude_vector"} if config.get("use_dora") else set())
    for layer, both in sides.items():
        if both.keys() != wanted or both["A"].shape[0] != both["B"].shape[1]:
            message = f"{path}: layer {layer} has not all of {sorted(wanted)}, or more, or their ranks differ"
            raise ModelError("adapter_unreadable", message, param="lora_path")
        scale = _scale(config, layer, both["A"].shape[0])
        magnitude = both["magnitude_vector"].float() if config.get("use_dora") else None
        pairs[layer] = LoraPair(both["A"].float(), both["B"].float() * scale, magnitude)
    return pairs


def _scale(config: dict[str, Any], layer: str, rank: int) -> float:
    """Alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA (Kalajdzievski 2023, arXiv:2312.03732)."""
    alpha = float(config.get("lora_alpha") or 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        # PEFT matches a pattern against the end of the path (peft.utils.other.get_pattern_key).
        if re.match(rf"(.*\.)?({pattern})$", layer):
            alpha = float(value)
            break
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
