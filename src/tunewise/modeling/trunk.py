"""The layers below those that are trained, computed once for each row: they are frozen, and its states stay the same.

A row is computed by itself, so that its states depend on nothing but its ids, and a run that is gone on with finds the
same bits. What does not fit in memory is kept in a file without a name, which ends with the process. Exactness:
tests/modeling/test_trunk.py; its yield is not measured yet. Knows ids and states; nothing of steps or losses.
"""

import tempfile
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import psutil
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.modeling.attention import Segment
from tunewise.modeling.layers import first_trained_layer, layers_of
from tunewise.modeling.loading import backbone

# Of what the machine has free when training begins; the rest is for activations and everybody else.
SHARE_OF_FREE_MEMORY = 0.25
PROBE_TOKENS = 8
PROBE_TOLERANCE = 1e-3


class StateStore:
    """States by their row's ids: in memory up to `memory_bytes`, beyond that in a file in `directory`."""

    def __init__(self, directory: Path, memory_bytes: int) -> None:
        self._left = memory_bytes
        self._held: dict[bytes, Tensor] = {}
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  # lives as long as the store
        weakref.finalize(self, self._file.close)
        self._placed: dict[bytes, tuple[int, torch.Size, torch.dtype]] = {}

    def get(self, key: bytes) -> Tensor | None:
        """What was put under the key."""
        if key in self._held:
            return self._held[key]
        if key not in self._placed:
            return None
        offset, shape, dtype = self._placed[key]
        self._file.seek(offset)
        data = bytearray(self._file.read(shape.numel() * dtype.itemsize))
        return torch.frombuffer(data, dtype=dtype).view(shape)

    def put(self, key: bytes, states: Tensor) -> None:
        """Keep states. Raises OSError where the disk is full."""
        if states.nbytes <= self._left:
            self._left -= states.nbytes
            self._held[key] = states
            return
        offset = self._file.seek(0, 2)
        self._file.write(states.view(torch.uint8).numpy().data)
        self._placed[key] = (offset, states.shape, states.dtype)


class FrozenTrunk:
    """The decoder of `model`, whose layers below number `first` are taken from `store` where a row is known there.

    From `start` to `stop`, the decoder takes ids and segments as before.
    """

    def __init__(self, model: PreTrainedModel, first: int, store: StateStore) -> None:
        self._decoder = backbone(model)
        self._layers = list(layers_of(model))
        self._first = first
        self._store = store
        self._skipped = range(0)
        self._reached: Tensor | None = None

    def start(self) -> Self:
        """Take the lower layers' part."""
        for number, layer in enumerate(self._layers):
            layer.forward = partial(self._layer, number, layer.forward)
        self._hook = self._decoder.register_forward_pre_hook(self._substitute, with_kwargs=True)
        return self

    def stop(self) -> None:
        """Let every layer compute again."""
        self._hook.remove()
        for layer in self._layers:
            del layer.forward

    def _layer(self, number: int, forward: Callable[..., Tensor], hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401  # as transformers calls it
        if number == self._first and self._computes_trunk:
            self._reached = hidden
        return hidden if number in self._skipped else forward(hidden, *args, **kwargs)

    @property
    def _computes_trunk(self) -> bool:
        return self._skipped.stop > self._first

    def _substitute(self, _decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        if self._computes_trunk:
            return None
        states = torch.cat([self._of_segment(kwargs["input_ids"][0], segment) for segment in kwargs["segments"]])[None]
        self._skipped = range(self._first)
        return args, kwargs | {"input_ids": None, "inputs_embeds": states}

    def _of_segment(self, ids: Tensor, segment: Segment) -> Tensor:
        """A segment's states are those of its row up to its end."""
        row = torch.cat([ids[start:stop] for start, stop in (*segment.before, (segment.start, segment.stop))])
        return self._states(row)[segment.start - segment.stop :]

    @torch.no_grad()
    def _states(self, ids: Tensor) -> Tensor:
        """Of one row after the frozen layers, (tokens, d_model)."""
        key = ids.numpy().tobytes()
        states = self._store.get(key)
        if states is None:
            self._skipped = range(self._first, len(self._layers))
            positions = torch.arange(len(ids))[None]
            segments = (Segment(0, len(ids)),)
            self._decoder(input_ids=ids[None], position_ids=positions, segments=segments, use_cache=False)
            if self._reached is None:
                raise RuntimeError(f"layer {self._first} was not reached")
            states, self._reached = self._reached[0].clone(), None
            self._skipped = range(0)
            self._store.put(key, states)
        return states


def keep_trunk(model: PreTrainedModel, top_layers: int, directory: Path) -> FrozenTrunk | None:
    """Compute each row's frozen layers once from now on; None where that would not be the same.

    It is not where a layer below draws random numbers, or where the family does more to its embeddings than pass them
    on: one short row is tried both ways.
    """
    first = first_trained_layer(model, top_layers)
    below = layers_of(model)[:first]
    if first == 0 or any(isinstance(module, nn.Dropout) and module.p for module in below.modules()):
        return None
    store = StateStore(directory, int(SHARE_OF_FREE_MEMORY * psutil.virtual_memory().available))
    trunk = FrozenTrunk(model, first, store)
    plain = _probe(model)
    kept = _probe(model, trunk)
    if not torch.allclose(kept, plain, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE * float(plain.abs().max())):
        return None
    return trunk.start()


@torch.no_grad()
def _probe(model: PreTrainedModel, trunk: FrozenTrunk | None = None) -> Tensor:
    was_training = model.training
    model.train(False)
    if trunk is not None:
        trunk.start()
    ids = torch.arange(PROBE_TOKENS)[None]
    segments = (Segment(0, PROBE_TOKENS),)
    states: Tensor = backbone(model)(
        input_ids=ids, position_ids=ids, segments=segments, use_cache=False
    ).last_hidden_state
    if trunk is not None:
        trunk.stop()
    model.train(was_training)
    return states
