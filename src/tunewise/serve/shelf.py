"""Which adapters are registered, which of them are in memory, and which requests wait for one that is not.

Knows names, bytes and requests; knows nothing of what an adapter computes. Adapters in memory fit a byte budget: the
least recently used goes first, never one that a request uses, and is read again when it is next asked for. Requests
wait at the door for theirs, and where memory for one is short, those that came later wait behind it: a model that is
asked without a pause keeps no other out. All methods run on the engine's thread, but for the reading of files.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Protocol

from tunewise.errors import ModelError, TunewiseError
from tunewise.serve.adapters import NO_ADAPTER, Adapter, read_adapter
from tunewise.serve.sequences import Ticket
from tunewise.serve.threads import aside

log = logging.getLogger("tunewise.serve")


class Holder(Protocol):
    """What holds the weights of adapters; `serve.network` is one."""

    def put_adapter(self, key: int, adapter: Adapter) -> None:
        """Take the weights in; raises ModelError where they do not fit the base model."""

    def drop_adapter(self, key: int) -> None:
        """Let the weights go."""


@dataclass
class _Registered:
    """An adapter that may be asked for; `is_named` ends when it is unregistered, while requests still use it."""

    name: str
    path: Path
    size: int
    is_named: bool = True


class Shelf:
    """The adapters of one engine.

    `later` runs a call on the engine's thread soon, `in_use` gives the keys of requests being computed, `refuse` ends a
    request that cannot be.
    """

    def __init__(
        self,
        holder: Holder,
        budget_bytes: int,
        later: Callable[[Callable[[], None]], None],
        in_use: Callable[[], Set[int]],
        refuse: Callable[[Ticket, TunewiseError], None],
    ) -> None:
        self.paths: dict[str, Path] = {}
        self.door: deque[Ticket] = deque()
        self._holder = holder
        self._budget = budget_bytes
        self._later = later
        self._in_use = in_use
        self._refuse = refuse
        self._numbers = count()
        self._keys: dict[str, int] = {}
        self._entries: dict[int, _Registered] = {}
        self._here: OrderedDict[int, int] = OrderedDict()  # bytes by key, the least recently used first
        self._reading: int | None = None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="adapters")

    def key(self, name: str | None) -> int | None:
        """The key of a registered adapter, that of none for None, None for a name that nobody registered."""
        return NO_ADAPTER if name is None else self._keys.get(name)

    def resident_bytes(self) -> int:
        """What the adapters in memory take."""
        return sum(tuple(self._here.values()))  # a copy: other threads ask too

    def register(self, adapter: Adapter, size: int, check: Callable[[int], None]) -> None:
        """Take an adapter of `size` bytes in under its name, once `check` of its key has passed.

        It is in memory afterwards, over the budget for as long as requests use all others.

        Raises:
            ModelError: `adapter_exists`, it does not fit the base model, or what `check` found.
        """
        if adapter.name in self._keys:
            message = f"an adapter named {adapter.name!r} is loaded from {self.paths[adapter.name]}; unload it first"
            raise ModelError("adapter_exists", message, param="lora_name")
        key = next(self._numbers)
        self._put(key, adapter, size)
        try:
            check(key)
        except ModelError:
            self._drop(key)
            raise
        self._keys[adapter.name], self.paths[adapter.name] = key, adapter.path
        self._entries[key] = _Registered(adapter.name, adapter.path, size)

    def unregister(self, name: str) -> None:
        """Let an adapter go; requests that have come for it are finished first.

        Raises:
            ModelError: `adapter_not_found`.
        """
        if name not in self._keys:
            raise ModelError("adapter_not_found", f"no adapter named {name!r} is loaded", param="lora_name")
        del self.paths[name]
        self._entries[self._keys.pop(name)].is_named = False
        self.settle()

    def check_size(self, name: str, size: int) -> None:
        """See that an adapter of `size` bytes may be held at all.

        Raises:
            ModelError: `adapter_too_large`, with both numbers.
        """
        if size > self._budget:
            message = (
                f"adapter {name!r} takes {_megabytes(size)} MB in memory and this server gives all adapters "
                f"{_megabytes(self._budget)} MB; start it with --adapter-memory-mb {_megabytes(size) + 1} or more"
            )
            raise ModelError("adapter_too_large", message, param="lora_path")

    def admit(self) -> list[Ticket]:
        """The requests at the door whose adapter is in memory; begins to read the first that is not."""
        in_use = set(self._in_use())
        passed: list[Ticket] = []
        kept: deque[Ticket] = deque()
        is_blocked = False
        for ticket in self.door:
            if not is_blocked and self._is_here(ticket.adapter):
                passed.append(ticket)
                in_use.add(ticket.adapter)
            else:
                kept.append(ticket)
                is_blocked = is_blocked or not self._fetch(ticket.adapter, in_use)
        self.door = kept
        return passed

    def has_news(self) -> bool:
        """Whether `admit` would do something now: nothing is, while a file is read, as a call of `later` follows."""
        return bool(self.door) and self._reading is None

    def withdraw(self, number: int) -> Ticket | None:
        """Take a request from the door; None if it is not there."""
        ticket = next((ticket for ticket in self.door if ticket.number == number), None)
        if ticket is not None:
            self.door.remove(ticket)
        return ticket

    def settle(self) -> None:
        """Forget what nobody uses any more, and come back to the budget."""
        in_use = self._in_use() | {ticket.adapter for ticket in self.door}
        for key in [key for key, entry in self._entries.items() if not entry.is_named and key not in in_use]:
            del self._entries[key]
            self._drop(key)
        self._make_room(0, in_use)

    def close(self) -> None:
        """Read no more."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _is_here(self, key: int) -> bool:
        if key in self._here:
            self._here.move_to_end(key)
        return key == NO_ADAPTER or key in self._here

    def _fetch(self, key: int, in_use: Set[int]) -> bool:
        """Begin to read an adapter, one at a time; False where memory for it has to be waited for."""
        if self._reading is not None:
            return True
        pinned = sum(size for held, size in self._here.items() if held in in_use)
        entry = self._entries[key]
        if pinned + entry.size > self._budget:
            return False
        self._make_room(entry.size, in_use)  # now, or those that came later for what has to go would keep it in use
        self._reading = key
        reading = self._reader.submit(aside, partial(read_adapter, entry.name, entry.path))
        reading.add_done_callback(lambda done: self._later(partial(self._arrived, key, done)))
        return True

    def _arrived(self, key: int, read: Future[Adapter]) -> None:
        """Take in what was read, unless it was unregistered meanwhile and nobody waits for it any more."""
        self._reading = None
        entry = self._entries.get(key)
        if entry is None:
            return
        try:
            self._put(key, read.result(), entry.size)
        except TunewiseError as error:
            log.warning("adapter %s could not be read again: %s", entry.name, error.message)
            for ticket in [ticket for ticket in self.door if ticket.adapter == key]:
                self.door.remove(ticket)
                self._refuse(ticket, error)
        self.settle()

    def _put(self, key: int, adapter: Adapter, size: int) -> None:
        self._make_room(size, self._in_use())
        self._holder.put_adapter(key, adapter)
        self._here[key] = size

    def _make_room(self, size: int, in_use: Set[int]) -> None:
        for key in [key for key in self._here if key not in in_use]:
            if self.resident_bytes() + size <= self._budget:
                return
            self._drop(key)

    def _drop(self, key: int) -> None:
        if self._here.pop(key, None) is not None:
            self._holder.drop_adapter(key)


def _megabytes(size: int) -> int:
    return -(-size // 2**20)
