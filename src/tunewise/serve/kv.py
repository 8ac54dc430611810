"""Keys and values of running sequences, in preallocated tensors.

Knows slots and lengths; knows nothing of models beyond the shape. A `Pool` holds sequences of similar length side by
side, packed in slots 0..n-1, so that attention reads plain views with no gather. A sequence that outgrows its pool
moves to one of twice the capacity. A prompt under computation has its own `Strip` until it is complete.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST_CAPACITY = 256  # tokens
FIRST_SLOTS = 8
KEPT_CAPACITY = 1024  # tokens; larger pools are given back when empty


class KvShape(NamedTuple):
    """What one token's keys and values look like."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    def bytes_per_token(self) -> int:
        """Keys and values of all layers."""
        return self.layers * 2 * self.kv_heads * self.head_dim * self.dtype.itemsize

    def empty(self, *middle: int, capacity: int) -> Tensor:
        """(layers, 2, *middle, kv_heads, capacity, head_dim)."""
        # Zeros, not what the memory held: a masked place weighs 0, but 0 times a NaN is a NaN.
        return torch.zeros(self.layers, 2, *middle, self.kv_heads, capacity, self.head_dim, dtype=self.dtype)


class Strip:
    """The keys and values of one prompt: `kv` (layers, 2, kv_heads, capacity, head_dim), `length` tokens filled."""

    def __init__(self, shape: KvShape, capacity: int) -> None:
        self.kv = shape.empty(capacity=capacity)
        self.length = 0


class Pool:
    """Sequences of up to `capacity` tokens in slots 0..count-1; `kv`: as `KvShape.empty(slots)`."""

    def __init__(self, shape: KvShape, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        self._shape = shape
        self.kv = shape.empty(FIRST_SLOTS, capacity=capacity)

    def add(self, source: Tensor, length: int) -> int:
        """Copy `length` tokens from `source` (layers, 2, kv_heads, ≥ length, head_dim) into a new slot."""
        if self.count == self.kv.shape[2]:
            grown = self._shape.empty(2 * self.count, capacity=self.capacity)
            grown[:, :, : self.count] = self.kv
            self.kv = grown
        self.kv[:, :, self.count, :, :length] = source[:, :, :, :length]
        self.count += 1
        return self.count - 1

    def remove(self, slot: int, last_length: int) -> None:
        """Free `slot`; the sequence in the last slot, of `last_length` tokens, takes its place."""
        self.count -= 1
        if slot != self.count:
            self.kv[:, :, slot, :, :last_length] = self.kv[:, :, self.count, :, :last_length]


def capacity_for(tokens: int) -> int:
    """The capacity of the pool for a sequence of `tokens`."""
    capacity = SMALLEST_CAPACITY
    while capacity < tokens:
        capacity *= 2
    return capacity


@dataclass
class Place:
    """Where the sequence `key` lies: changed by `Pools` only, but for `length`, which grows with each token."""

    key: int
    capacity: int
    slot: int
    length: int


@dataclass
class Pools:
    """All pools, by capacity, and who lies in which slot."""

    shape: KvShape
    pools: dict[int, Pool] = field(default_factory=dict)
    places: dict[int, list[Place]] = field(default_factory=dict)

    def put(self, key: int, source: Tensor, length: int) -> Place:
        """Take in the sequence `key` of `length` tokens, with room for one more. `source`: as in `Pool.add`."""
        capacity = capacity_for(length + 1)
        pool = self.pools.get(capacity)
        if pool is None:
            pool = self.pools[capacity] = Pool(self.shape, capacity)
            self.places[capacity] = []
        place = Place(key, capacity, pool.add(source, length), length)
        self.places[capacity].append(place)
        return place

    def drop(self, place: Place) -> None:
        """Let a sequence go."""
        pool, places = self.pools[place.capacity], self.places[place.capacity]
        last = places[-1]
        pool.remove(place.slot, last.length)
        places[place.slot] = last
        last.slot = place.slot
        places.pop()
        if pool.count == 0 and place.capacity > KEPT_CAPACITY:
            del self.pools[place.capacity], self.places[place.capacity]

    def make_room(self, place: Place) -> None:
        """See that one more token fits, moving the sequence to a larger pool where it does not."""
        if place.length < place.capacity:
            return
        source = self.pools[place.capacity].kv[:, :, place.slot]
        moved = self.put(place.key, source, place.length)
        self.drop(place)
        self.places[moved.capacity][moved.slot] = place
        place.capacity, place.slot = moved.capacity, moved.slot
