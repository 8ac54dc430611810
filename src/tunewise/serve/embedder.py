"""An embedding model: token ids in, vectors of length 1 out.

Computes what sentence-transformers does with such a directory: the encoder's last hidden states, their mean over the
tokens of a text, divided by its length. Knows files and tensors; knows nothing of HTTP or of who waits.
`benchmarks/embeddings.py` measures.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from tunewise.errors import ModelError
from tunewise.model_files import context_length, json_object

disable_progress_bar()  # type: ignore[no-untyped-call]

Ids = Sequence[int]
Vectors = NDArray[np.float32]
BATCH_TOKENS = 2048  # enough for full speed of the products; more only costs memory
STEPS = ["Transformer", "Pooling", "Normalize"]
MEAN = "pooling_mode_mean_tokens"


class Embedder:
    """A loaded model in float32. Only one thread may embed at a time.

    `max_tokens`: of a text, special tokens included; `dimensions`: of a vector; `vocabulary`: how many token ids.
    """

    def __init__(self, directory: Path) -> None:
        """Load safetensors from `directory`, with no network.

        Raises:
            ModelError: it is no embedding model, or pools in another way.
        """
        _require_mean(directory)
        self._model = _load(directory)
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        # The file cuts at 128 tokens and pads to 128, which was right for training only.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.max_tokens = _max_tokens(directory)
        self.dimensions: int = self._model.config.hidden_size
        self.vocabulary: int = self._model.config.vocab_size

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text's token ids, with the model's special tokens, however long."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def embed(self, texts: Sequence[Ids]) -> Vectors:
        """Token ids of each text, at least one → (texts, dimensions), in the order of `texts`.

        Texts of like length share a batch, so that next to nothing is padded.
        """
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        for batch in batches([len(ids) for ids in texts]):
            vectors[batch] = self._batch([texts[index] for index in batch])
        return vectors

    @torch.inference_mode()
    def _batch(self, texts: Sequence[Ids]) -> Vectors:
        longest = max(map(len, texts))
        ids = torch.tensor([[*one, *[0] * (longest - len(one))] for one in texts])
        lengths = torch.tensor([len(one) for one in texts])
        mask = (torch.arange(longest) < lengths[:, None]).long()
        # Without a mask attention takes its faster path.
        hidden: Tensor = self._model(
            input_ids=ids, attention_mask=None if int(lengths.min()) == longest else mask
        ).last_hidden_state
        mean = (hidden * mask[..., None]).sum(1) / lengths[:, None]
        vectors: Vectors = functional.normalize(mean, dim=1).numpy()
        return vectors


def batches(lengths: Sequence[int], tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Indices into `lengths`, longest first, in batches that hold at most `tokens` once padded, or one text."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _load(directory: Path) -> PreTrainedModel:
    try:
        model: PreTrainedModel = AutoModel.from_pretrained(
            directory, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise ModelError("model_unreadable", f"{directory} cannot be loaded as an embedding model: {error}") from error
    return model  # from_pretrained has put it into evaluation mode


def _require_mean(directory: Path) -> None:
    """Refuse a directory whose vectors are made otherwise than here."""
    try:
        steps: list[dict[str, Any]] = json.loads((directory / "modules.json").read_bytes())
    except (FileNotFoundError, ValueError) as error:
        raise ModelError(
            "no_embeddings",
            f"{directory}/modules.json cannot be read ({error}): it is no directory of sentence-transformers, and it "
            "is not known how its vectors are made",
        ) from error
    kinds = [str(step["type"]).rpartition(".")[2] for step in steps]
    pooling = json_object(directory / steps[1]["path"] / "config.json") if kinds == STEPS else {}
    modes = [mode for mode, is_on in pooling.items() if mode.startswith("pooling_mode_") and is_on]
    if modes != [MEAN]:
        raise ModelError(
            "pooling_unsupported",
            f"{directory}: its vectors are made by {', '.join(kinds)} with {modes}; here they can be made by "
            f"{', '.join(STEPS)} with {MEAN}",
        )


def _max_tokens(directory: Path) -> int:
    """What the model was made for, where its directory says so; its positions may go further."""
    positions = context_length(directory, json_object(directory / "config.json"))
    stated = directory / "sentence_bert_config.json"
    limit = json_object(stated).get("max_seq_length") if stated.is_file() else None
    return min(positions, limit) if isinstance(limit, int) else positions
