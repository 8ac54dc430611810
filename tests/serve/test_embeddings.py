"""/v1/embeddings of a real server: equal to the model's plain computation, and everything that is refused."""

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, BertModel

from serve.running import Server, start
from tunewise import embedding_models
from tunewise.embedding_models import DEFAULT_EMBEDDINGS
from tunewise.errors import ModelError
from tunewise.serve.embedder import Embedder, batches

SENTENCE = "The quick brown fox jumps over the lazy dog near a riverbank while it rains and nobody looks. "
TEXTS = [
    "Crème brûlée",
    "a",
    "How do I get a refund for a payment that was declined?",
    SENTENCE * 8,  # over the 128 tokens at which the tokenizer's file would cut
    "東京は日本の首都です。",
    "A refund of my declined payment, please.",
    "\n\ttabs and\nlines \N{GRINNING FACE}",
]


@pytest.fixture(scope="module")
def model() -> Path:
    return embedding_models.find(DEFAULT_EMBEDDINGS).path


@pytest.fixture(scope="module")
def embeddings(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(model, tmp_path_factory.mktemp("embeddings") / "ready.json", "--embeddings", "--max-waiting", "400")
    yield running
    running.client.close()
    running.process.terminate()
    assert running.process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def plain(model: Path) -> NDArray[np.float32]:
    """What the model's card says to compute: one text at a time, mean of the last hidden states, length 1."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    bert = BertModel.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    vectors = []
    for text in TEXTS:
        encoded = tokenizer([text], padding=False, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            hidden = bert(**encoded).last_hidden_state
        mask = encoded["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        vectors.append(torch.nn.functional.normalize(mean, p=2, dim=1)[0].numpy())
    return np.array(vectors)


def asked(server: Server, given: Any, **changes: Any) -> Any:  # noqa: ANN401  # the SDK's overloads cannot be spread
    return server.client.embeddings.create(model="tiny", input=given, **changes)


def test_embeddings_equal_those_of_transformers(embeddings: Server, plain: NDArray[np.float32]) -> None:
    answer = asked(embeddings, TEXTS)
    found = np.array([one.embedding for one in answer.data], dtype=np.float32)
    assert [one.index for one in answer.data] == list(range(len(TEXTS)))
    assert np.abs(found - plain).max() < 1e-5
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5
    assert int(np.argmax(found[2] @ found[[0, 1, 3, 4, 5, 6]].T)) == 4  # the other text about a refund


def test_a_text_has_the_same_vector_alone_and_among_others(embeddings: Server, plain: NDArray[np.float32]) -> None:
    for text, vector in zip(TEXTS, plain, strict=True):
        alone = np.array(asked(embeddings, text).data[0].embedding)
        assert np.abs(alone - vector).max() < 1e-5


def test_base64_which_the_sdk_asks_for_and_numbers_are_the_same(embeddings: Server) -> None:
    url = f"{embeddings.base_url}/embeddings"
    body = {"model": "tiny", "input": TEXTS[0]}
    coded = httpx.post(url, json=body | {"encoding_format": "base64"}).json()["data"][0]["embedding"]
    numbers = httpx.post(url, json=body).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(coded), dtype="<f4").tolist() == pytest.approx(numbers, abs=1e-9)
    assert len(numbers) == 384


def test_token_ids_are_taken_as_they_stand(embeddings: Server, model: Path) -> None:
    ids = Embedder(model).encode(TEXTS)
    by_ids, by_text = asked(embeddings, ids), asked(embeddings, TEXTS)
    assert by_ids.usage == by_text.usage
    assert by_ids.usage.prompt_tokens == by_ids.usage.total_tokens == sum(map(len, ids))
    assert by_ids.data[2].embedding == by_text.data[2].embedding
    assert asked(embeddings, ids[0]).data[0].embedding == pytest.approx(by_text.data[0].embedding, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        (
            {"input": "word " * 300},
            "context_length_exceeded",
            r"256 tokens, however you requested 302 tokens in input\[0",
        ),
        ({"input": ["short", "word " * 300]}, "context_length_exceeded", r"input\[1\]"),
        ({"input": ""}, "invalid_value", "none empty"),
        ({"input": ["a", ""]}, "invalid_value", "none empty"),
        ({"input": []}, "invalid_value", "none empty"),
        ({"input": [[]]}, "invalid_value", "none empty"),
        ({"input": None}, "invalid_value", "none empty"),
        ({"input": [None]}, "invalid_value", "none empty"),
        ({"input": ["a", [5]]}, "invalid_value", "none empty"),
        ({"input": [True]}, "invalid_value", "none empty"),
        ({"input": {"text": "a"}}, "invalid_value", "none empty"),
        ({"input": [5, 30522]}, "invalid_value", "0 to 30521 .got 30522"),
        ({"input": [-1]}, "invalid_value", "got -1"),
        ({"input": ["a"] * 2049}, "invalid_value", "at most 2048"),
        ({"dimensions": 256}, "invalid_value", "makes 384 numbers"),
        ({"dimensions": 0}, "invalid_value", "dimensions"),
        ({"encoding_format": "hex"}, "invalid_value", "encoding_format"),
        ({"truncate": True}, "unknown_parameter", "truncate"),
        ({"user": 5}, "invalid_value", "user"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    embeddings: Server, changes: dict[str, Any], code: str, words: str
) -> None:
    answer = httpx.post(f"{embeddings.base_url}/embeddings", json={"model": "tiny", "input": "a"} | changes)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code
    with pytest.raises(openai.BadRequestError, match=words):
        embeddings.client.post("/embeddings", body={"model": "tiny", "input": "a"} | changes, cast_to=object)


def test_a_whole_model_s_length_and_its_own_dimensions_are_honoured(embeddings: Server) -> None:
    answer = asked(embeddings, "word " * 254, dimensions=384, user="someone")
    assert answer.usage.prompt_tokens == 256
    assert answer.model == "tiny"


def test_another_model_is_not_found(embeddings: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="the model here is: tiny"):
        embeddings.client.embeddings.create(model="text-embedding-3-small", input="a")
    assert [one.id for one in embeddings.client.models.list()] == ["tiny"]


def test_many_at_once_get_their_own_vectors(embeddings: Server, plain: NDArray[np.float32]) -> None:
    large = [text for text in TEXTS for _ in range(20)]
    with ThreadPoolExecutor(16) as pool:
        waiting = pool.submit(asked, embeddings, large)
        small = list(pool.map(lambda index: asked(embeddings, TEXTS[index]), [*range(len(TEXTS))] * 6))
        many = waiting.result()
    for number, answer in enumerate(small):
        assert np.abs(np.array(answer.data[0].embedding) - plain[number % len(TEXTS)]).max() < 1e-5
    found = np.array([one.embedding for one in many.data])
    assert np.abs(found - np.repeat(plain, 20, axis=0)).max() < 1e-5


def test_batches_hold_every_text_once_and_pad_little() -> None:
    lengths = [3, 250, 17, 16, 3, 90, 1, 2000, 5000]
    found = list(batches(lengths, 256))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 256 for batch in found)
    assert found[0] == [8]


def edited(model: Path, copy: Path, file: str, content: object) -> Path:
    """A copy of the model with one file changed; what is large is linked."""
    for path in model.rglob("*"):
        place = copy / path.relative_to(model)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            place.symlink_to(path)
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize(
    ("file", "content", "code"),
    [
        ("modules.json", None, "no_embeddings"),
        (
            "modules.json",
            [{"type": "x.Transformer", "path": ""}, {"type": "x.Dense", "path": "2"}],
            "pooling_unsupported",
        ),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, "pooling_unsupported"),
        ("config.json", {"model_type": "nothing"}, "model_unreadable"),
    ],
)
def test_a_directory_whose_vectors_are_made_otherwise_is_refused(
    model: Path, tmp_path: Path, file: str, content: object, code: str
) -> None:
    with pytest.raises(ModelError) as refused:
        Embedder(edited(model, tmp_path, file, content))
    assert refused.value.code == code
