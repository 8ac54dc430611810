"""Embeddings over HTTP against the model's plain use, in one run on one machine.

Ours is `python -m tunewise.serve --embeddings`, asked by the openai SDK in its default base64, some requests at once.
Theirs does in this process what sentence-transformers' `encode` does: texts sorted by length, batches of 32, padded,
transformers' BertModel, mean, normalised. Sides take turns on the same texts; medians are compared, and the largest
difference of any number is told.

    python benchmarks/embeddings.py --rows FILE.jsonl [--texts 512] [--repeat 5]
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from openai import AsyncOpenAI
from transformers import AutoTokenizer, BertModel, PreTrainedTokenizerBase

from serving_client import client_of, peak_mb, questions
from tunewise import embedding_models
from tunewise.data.conversation import text_of
from tunewise.embedding_models import DEFAULT_EMBEDDINGS
from tunewise.jobs.engines import Yard, engine, local_client
from tunewise.jobs.model_server import Wanted
from tunewise.settings import get_settings

PER_REQUEST, CONCURRENT, THEIR_BATCH, MAX_TOKENS = 64, 4, 32, 256

Vectors = NDArray[np.float32]


def main() -> None:
    """Measure both sides and print; the last line is one JSON object."""
    options = _options()
    texts = [text_of(row[-1].content) for row in questions(options.rows, options.texts)]
    directory = embedding_models.find(DEFAULT_EMBEDDINGS).path
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = BertModel.from_pretrained(directory, dtype=torch.float32)
    tokens = sum(min(len(ids), MAX_TOKENS) for ids in tokenizer(texts)["input_ids"])
    asyncio.run(_compare(options, texts, tokens, tokenizer, model))


async def _compare(
    options: argparse.Namespace,
    texts: Sequence[str],
    tokens: int,
    tokenizer: PreTrainedTokenizerBase,
    model: BertModel,
) -> None:
    ours, theirs, gap = [], [], 0.0
    with tempfile.TemporaryDirectory() as directory:
        async with local_client() as client:
            server = await engine(Yard(get_settings(), Path(directory), client))(Wanted(DEFAULT_EMBEDDINGS))
            asking = client_of(server.base_url)
            try:
                await _ours(asking, texts[:PER_REQUEST])
                for number in range(options.repeat):
                    began = time.perf_counter()
                    found = await _ours(asking, texts)
                    middle = time.perf_counter()
                    plain = _theirs(tokenizer, model, texts)
                    ours.append(len(texts) / (middle - began))
                    theirs.append(len(texts) / (time.perf_counter() - middle))
                    gap = max(gap, float(np.abs(found - plain).max()))
                    print(
                        f"round {number + 1}: ours {ours[-1]:.0f} texts/s, plain {theirs[-1]:.0f} texts/s", flush=True
                    )
                memory = peak_mb(server.pid)
            finally:
                await server.stop()
    each = round(tokens / len(texts), 1)
    sides = {
        "tunewise": {"texts_per_second": round(median(ours), 1), "peak_memory_mb": memory},
        "transformers": {"texts_per_second": round(median(theirs), 1), "peak_memory_mb": peak_mb()},
    }
    report = {"name": "embeddings", "ratio": round(median(ours) / median(theirs), 2), "sides": sides}
    print(json.dumps(report | {"texts": len(texts), "tokens_per_text": each, "largest_difference": gap}))


async def _ours(client: AsyncOpenAI, texts: Sequence[str]) -> Vectors:
    gate = asyncio.Semaphore(CONCURRENT)

    async def some(start: int) -> Vectors:
        async with gate:
            given = list(texts[start : start + PER_REQUEST])
            answer = await client.embeddings.create(model=DEFAULT_EMBEDDINGS, input=given)
        return np.array([one.embedding for one in answer.data], dtype=np.float32)

    return np.concatenate(await asyncio.gather(*(some(start) for start in range(0, len(texts), PER_REQUEST))))


@torch.inference_mode()
def _theirs(tokenizer: PreTrainedTokenizerBase, model: BertModel, texts: Sequence[str]) -> Vectors:
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    vectors = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), THEIR_BATCH):
        batch = order[start : start + THEIR_BATCH]
        encoded = tokenizer(
            [texts[index] for index in batch], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        hidden = model(**encoded).last_hidden_state
        mask = encoded["attention_mask"][..., None]
        vectors[batch] = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1).numpy()
    return vectors


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Embeddings over HTTP against plain transformers.")
    parser.add_argument("--rows", type=Path, required=True, help="chat rows; each row's question is embedded")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
