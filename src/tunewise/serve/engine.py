"""The engine: continuous batching on one thread that owns the network.

The engine knows nothing of HTTP: requests come in over a queue, events go out through a callback, once per step. Each
step computes one token of every running choice together with a budget of prompt tokens in one forward pass, so prompts
never starve running answers and share their reading of the weights.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import Future
from itertools import count
from pathlib import Path

import torch

from tunewise.errors import ServingError, TunewiseError
from tunewise.modeling.loops import use_threads
from tunewise.serve.adapters import measure_adapter, read_adapter
from tunewise.serve.attention import DecodeGroup, PromptSpan, StepLayout
from tunewise.serve.generation import Deliver, Event, Failed, Finished, Generation, TokenLogprob
from tunewise.serve.kv import Pools
from tunewise.serve.network import Network
from tunewise.serve.parity import replay
from tunewise.serve.prefix import PrefixCache
from tunewise.serve.sampling import logprobs, sample
from tunewise.serve.scheduler import Limits, Scheduler, Step
from tunewise.serve.sequences import Choice, Ticket
from tunewise.serve.shaping import shape
from tunewise.serve.shelf import Shelf
from tunewise.serve.text import Decode
from tunewise.serve.threads import aside

log = logging.getLogger("tunewise.serve")


class Engine:
    """Hosts one network. All public methods may be called from any thread."""

    def __init__(self, network: Network, decode: Decode, stop_ids: Set[int], limits: Limits, deliver: Deliver) -> None:
        self.failure: TunewiseError | None = None
        self.context_length = network.context_length
        self.vocabulary = network.vocabulary
        self.on_failure: Callable[[], None] = lambda: None
        self._network = network
        self._decode = decode
        self._stop_ids = stop_ids
        self._limits = limits
        self._deliver = deliver
        self._numbers = count(1)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._outbox: list[tuple[int, Event]] = []
        self._given_up: set[int] = set()
        self._lock = threading.Lock()
        self._open: dict[int, str | None] = {}
        self._running = True
        cache = PrefixCache(limits.prefix_bytes)
        self._scheduler = Scheduler(limits, network.kv_shape, cache, Pools(network.kv_shape))
        self._shelf = Shelf(network, limits.adapter_bytes, self._inbox.put, self._adapters_in_use, self._refuse)
        self.adapters: Mapping[str, Path] = self._shelf.paths
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def unfinished(self) -> int:
        """Requests that wait or run."""
        return len(self._open)

    def load_before_start(self, name: str, path: Path) -> None:
        """As `load_adapter`, for adapters named at start-up."""
        self._registration(name, path)()

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the current step and end; unfinished requests fail with `shutting_down`."""
        self._inbox.put(self._shut_down)
        if self._thread.is_alive():
            self._thread.join()
        self._shelf.close()

    def submit(self, generation: Generation) -> int:
        """Queue a request; its events come through the callback under the number returned.

        A model that has nothing under way is let in to a full queue, or another's requests could keep it out for good.

        Raises:
            ServingError: `queue_full`, or the engine has failed.
        """
        if self.failure:
            raise self.failure
        with self._lock:
            is_full = self.unfinished >= self._limits.running + self._limits.waiting
            if is_full and generation.adapter in self._open.values():
                message = f"{self.unfinished} requests are waiting or running, which is this server's limit; try again"
                raise ServingError("queue_full", message)
            number = next(self._numbers)
            self._open[number] = generation.adapter
        self._inbox.put(lambda: self._accept(number, generation))
        return number

    def cancel(self, number: int) -> None:
        """Forget a request; no event follows. Harmless when it is finished."""
        self._inbox.put(lambda: self._forget(number))

    def load_adapter(self, name: str, path: Path) -> None:
        """Read an adapter and host it under `name`; it is in memory while it is among those asked for most lately.

        Raises:
            ModelError: it cannot be read, does not fit the base model or the memory, does not answer as it was trained
                to, or the name is taken.
        """
        self._ask(self._registration(name, path))

    def unload_adapter(self, name: str) -> None:
        """Let an adapter go; requests under way with it are finished first.

        Raises:
            ModelError: there is none of that name.
        """
        self._ask(lambda: self._shelf.unregister(name))

    def adapter_bytes(self) -> int:
        """What the adapters in memory take."""
        return self._shelf.resident_bytes()

    def _ask(self, action: Callable[[], None]) -> None:
        """Run `action` on the engine's thread and wait for it."""
        done: Future[None] = Future()

        def answer() -> None:
            try:
                action()
                done.set_result(None)
            except TunewiseError as error:
                done.set_exception(error)

        self._inbox.put(answer)
        done.result()

    def _registration(self, name: str, path: Path) -> Callable[[], None]:
        """Read an adapter, on the caller's thread; gives what registers it, for the engine's."""
        size = measure_adapter(path, self._network.dtype)
        self._shelf.check_size(name, size)
        adapter = aside(lambda: read_adapter(name, path))
        return lambda: self._shelf.register(
            adapter, size, lambda key: replay(self._network, key, name, path, self._decode)
        )

    def _adapters_in_use(self) -> set[int]:
        return {ticket.adapter for ticket in self._scheduler.tickets()}

    def _refuse(self, ticket: Ticket, error: TunewiseError) -> None:
        self._end(ticket.number, Failed(error))

    def _accept(self, number: int, generation: Generation) -> None:
        key = self._shelf.key(generation.adapter)
        if key is None:
            self._end(number, Failed(ServingError("model_not_found", f"adapter {generation.adapter!r} was unloaded")))
            return
        self._shelf.door.append(Ticket.issue(number, generation, key))

    def _forget(self, number: int) -> None:
        if (self._shelf.withdraw(number) or self._scheduler.cancel(number)) is not None:
            with self._lock:
                del self._open[number]
            self._shelf.settle()

    def _end(self, number: int, event: Event) -> None:
        self._outbox.append((number, event))
        with self._lock:
            del self._open[number]
        self._shelf.settle()

    def _shut_down(self) -> None:
        self._running = False
        self._fail_all(ServingError("shutting_down", "the server is shutting down; try again elsewhere or later"))

    def _fail_all(self, error: TunewiseError) -> None:
        for ticket in [*self._shelf.door, *self._scheduler.tickets()]:
            self._shelf.withdraw(ticket.number)
            self._scheduler.cancel(ticket.number)
            self._end(ticket.number, Failed(error))

    def _run(self) -> None:
        torch.set_grad_enabled(mode=False)
        use_threads(torch.get_num_threads())
        try:
            while self._running:
                self._read_inbox()
                if self._shelf.door:
                    for ticket in self._shelf.admit():
                        self._scheduler.add(ticket)
                if not self._scheduler.idle():
                    self._step()
                self._flush()
        except Exception as error:
            log.exception("the engine failed")
            self.failure = ServingError("engine_failed", f"the engine failed and must be restarted: {error}")
            self._fail_all(self.failure)
            self._flush()
            self.on_failure()

    def _read_inbox(self) -> None:
        if self._scheduler.idle() and not self._shelf.has_news():
            self._inbox.get()()
        while not self._inbox.empty():
            self._inbox.get()()

    def _flush(self) -> None:
        if self._outbox:
            self._deliver(self._outbox)
            self._outbox = []

    def _step(self) -> None:
        step = self._scheduler.plan()
        if not step.rows and not step.chunks:
            return
        logits = self._forward(step)
        complete = [chunk.prompt for chunk in step.chunks if self._scheduler.computed(chunk)]
        begun = [
            (Choice.open(prompt.ticket, index, self._decode), prompt)
            for prompt in complete
            for index in range(prompt.ticket.generation.n)
        ]
        sources = [*range(len(step.rows))]
        sources += [
            len(step.rows) + at for at, prompt in enumerate(complete) for _ in range(prompt.ticket.generation.n)
        ]
        choices = step.rows + [choice for choice, _ in begun]
        if not choices:
            return
        ended = self._write(logits if len(sources) == len(logits) else logits[sources], choices)
        for choice, prompt in begun:
            if id(choice) not in ended:
                self._scheduler.run(choice, prompt)

    def _forward(self, step: Step) -> torch.Tensor:
        """Compute the step: logits (rows + prompts completed by it, vocabulary)."""
        ids = [choice.last_token for choice in step.rows]
        adapters = [choice.ticket.adapter for choice in step.rows]
        groups = list(self._decode_groups(step.rows))
        positions = [group.positions for group in groups]
        picked = list(range(len(ids)))
        spans = []
        for prompt, tokens in step.chunks:
            past, start = prompt.strip.length, len(ids)
            ids += prompt.ticket.generation.prompt[past : past + tokens]
            adapters += [prompt.ticket.adapter] * tokens
            positions.append(torch.arange(past, past + tokens))
            spans.append(PromptSpan(start, len(ids), prompt.strip, past))
            if tokens == prompt.remaining():
                picked.append(len(ids) - 1)
        self._network.route(adapters, len(step.rows))
        layout = StepLayout(groups, spans)
        # A step that only goes on with a long prompt picks no position; without the type, torch makes that floats.
        ends = torch.tensor(picked, dtype=torch.long)
        logits = self._network.forward(torch.tensor(ids), torch.cat(positions), layout, ends)
        for choice in step.rows:
            choice.where().length += 1
        return logits

    def _decode_groups(self, rows: list[Choice]) -> Iterator[DecodeGroup]:
        start = 0
        while start < len(rows):
            pool = self._scheduler.pools.pools[rows[start].where().capacity]
            lengths = [choice.where().length for choice in rows[start : start + pool.count]]
            yield DecodeGroup(start, start + pool.count, pool.kv, torch.tensor(lengths))
            start += pool.count

    def _write(self, logits: torch.Tensor, choices: list[Choice]) -> set[int]:
        """Sample a token for each choice and report it; gives the identities of those that have ended."""
        asked = [row for row, choice in enumerate(choices) if choice.ticket.generation.top_logprobs is not None]
        plain = logits[asked] if asked else logits[:0]
        shape(logits, [choice.shape() for choice in choices])
        tokens = sample(logits, [choice.draw() for choice in choices])
        details = _token_logprobs(plain, asked, tokens, choices)
        ended = set()
        for choice, token, detail in zip(choices, tokens, details, strict=True):
            piece = choice.take(token, detail, self._stop_ids)
            if choice.walk is not None and (problem := choice.walk.problem()):
                self._give_up(choice.ticket, problem)
            elif piece is not None and choice.ticket.number not in self._given_up:
                self._outbox.append((choice.ticket.number, piece))
                if piece.finish_reason:
                    ended.add(id(choice))
                    self._finish(choice)
        if self._given_up:
            ended |= {id(choice) for choice in choices if choice.ticket.number in self._given_up}
            self._given_up.clear()
        return ended

    def _give_up(self, ticket: Ticket, problem: str) -> None:
        """End a request whose grammar leads nowhere, once for all its choices."""
        if ticket.number not in self._given_up:
            self._given_up.add(ticket.number)
            self._scheduler.cancel(ticket.number)
            message = f"the form asked for is too complex to be enforced here: {problem[:400]}; simplify the schema"
            self._end(ticket.number, Failed(ServingError("grammar_too_complex", message)))

    def _finish(self, choice: Choice) -> None:
        self._scheduler.stop(choice)
        if choice.ticket.unfinished == 0:
            self._end(choice.ticket.number, Finished(choice.ticket.usage()))


def _token_logprobs(
    plain: torch.Tensor, asked: list[int], tokens: list[int], choices: list[Choice]
) -> list[TokenLogprob | None]:
    """What each choice is told of its token. `plain`: the model's logits of the rows `asked`, before any shaping."""
    details: list[TokenLogprob | None] = [None] * len(choices)
    if not asked:
        return details
    wanted = [choices[row].ticket.generation.top_logprobs or 0 for row in asked]
    found = logprobs(plain, [tokens[row] for row in asked], max(wanted))
    for row, most, (own, top) in zip(asked, wanted, found, strict=True):
        details[row] = TokenLogprob(tokens[row], own, tuple(top[:most]))
    return details
