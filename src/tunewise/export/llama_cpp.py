"""llama.cpp as a reader of GGUF files, through `xllamacpp` (MIT, the extra `gguf`): tokens, and what follows them.

Its server listens on this machine only and ends with this process. Knows llama.cpp's own HTTP routes, which speak of
token ids where OpenAI's speak of text.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from tunewise.contracts.parity import ParityPrompt
from tunewise.data.template import Template
from tunewise.errors import ModelError
from tunewise.modeling.parity import Reading

# The likeliest tokens that are asked for at each place. A recorded token that is not among them is far off.
LIKELIEST = 64
FORCED = 1e3
TIMEOUT_SECONDS = 300.0


def is_installed() -> bool:
    """Whether GGUF files can be read back here."""
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaCpp:
    """A GGUF file, loaded for sequences of up to `tokens`, to be used in a `with` statement. `end`: any end token."""

    def __init__(self, file: Path, tokens: int, *, end: int) -> None:
        """Load the file.

        Raises:
            ModelError: llama_cpp_refuses.
        """
        import xllamacpp  # an extra

        settings = xllamacpp.CommonParams()
        settings.model.path = str(file)
        settings.n_ctx = tokens
        settings.n_parallel = 1
        settings.swa_full = True  # or each token of a model with windows would cost a whole prompt
        settings.warmup = False
        settings.verbosity = -1
        settings.cpuparams.n_threads = psutil.cpu_count(logical=False) or 1
        try:
            self._server: Any = xllamacpp.Server(settings)
        except RuntimeError as error:
            raise ModelError("llama_cpp_refuses", f"{file}: llama.cpp does not load it: {error}") from error
        self._client = httpx.Client(base_url=self._server.listening_address, timeout=TIMEOUT_SECONDS)
        self._end = end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        del self._server

    def tokens(self, text: str) -> list[int]:
        """What a text is cut into; control tokens in it count as such, and none is added."""
        found: list[int] = self._post("/tokenize", content=text, add_special=False, parse_special=True)["tokens"]
        return found

    def greedy(self, prompt: Sequence[int], *, new_tokens: int) -> list[int]:
        """The likeliest tokens after a prompt, up to an end token, which is the last then."""
        asked = {"prompt": list(prompt), "n_predict": new_tokens, "temperature": 0.0, "return_tokens": True}
        found: list[int] = self._post("/completion", **asked, n_probs=1)["tokens"]
        return found

    def readings(self, recorded: ParityPrompt) -> list[Reading]:
        """What it makes of each place of a recorded answer, one request and one new token each."""
        ids, found = list(recorded.prompt), []
        for token in recorded.continuation:
            found.append(self._reading(ids, token))
            ids.append(token)
        return found

    def require_same_tokens(self, texts: Sequence[str], template: Template) -> None:
        """Refuse a file with which llama.cpp would read texts otherwise than the model was trained to.

        Raises:
            ModelError: tokens_differ.
        """
        for number, text in enumerate(texts, start=1):
            ours, theirs = template.encode(text), self.tokens(text)
            if ours != theirs:
                place = next((at for at, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), len(theirs))  # noqa: B905
                raise ModelError(
                    "tokens_differ",
                    f"prompt {number} ({text[-60:]!r}): token {place + 1} is {ours[place : place + 1]} in training and "
                    f"{theirs[place : place + 1]} in llama.cpp; its tokenizer is not this model's. Export merged",
                )

    def _reading(self, ids: list[int], recorded: int) -> Reading:
        # The probabilities are from before the bias. It has an end token chosen, as the place of a token that is part
        # of a character only would be told with a later one.
        answer = self._post(
            "/completion",
            prompt=ids,
            n_predict=1,
            temperature=0.0,
            n_probs=LIKELIEST,
            cache_prompt=True,
            logit_bias=[[self._end, FORCED]],
        )
        (place,) = answer["completion_probabilities"]
        likeliest = {entry["id"]: float(entry["logprob"]) for entry in place["top_logprobs"]}
        best = max(likeliest, key=lambda token: likeliest[token])
        return Reading(best, likeliest[best], likeliest.get(recorded, -float("inf")))

    def _post(self, route: str, **body: object) -> dict[str, Any]:
        answer = self._client.post(route, json=body)
        if answer.is_error:
            raise ModelError("llama_cpp_refuses", f"llama.cpp answers {answer.status_code}: {answer.text}")
        found: dict[str, Any] = answer.json()
        return found
