"""The real openai SDK against a really started server."""

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from serve.running import Server, start
from tunewise.contracts.run import BaseModelRef
from tunewise.data.template import Template

MESSAGES: list[Any] = [
    {"role": "system", "content": "You name ingredients, one after the other, and nothing else."},
    {"role": "user", "content": "Title: Crème brûlée"},
]


def ask(client: OpenAI, **changes: Any) -> Any:  # noqa: ANN401  # the SDK's overloads cannot be spread
    settings: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    return client.chat.completions.create(**settings | changes)


def test_models_lists_the_base_and_its_adapters(server: Server) -> None:
    assert [model.id for model in server.client.models.list()][:3] == ["tiny", "all", "some"]
    assert server.client.models.retrieve("all").id == "all"
    assert httpx.get(server.base_url.removesuffix("/v1") + "/healthz").json() == {"status": "ok"}


def test_usage_counts_the_rendered_prompt_and_the_tokens_written(server: Server, tiny_model: BaseModelRef) -> None:
    template = Template.load(tiny_model.path)
    answer = ask(server.client, extra_body={"ignore_eos": True}, n=2)
    typed = [{"role": "user", "content": "x"}]
    assert answer.usage.completion_tokens == 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 24
    assert [choice.finish_reason for choice in answer.choices] == ["length", "length"]
    text = "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    short = ask(server.client, messages=[{"role": "system", "content": "s"}, *typed])
    assert short.usage.prompt_tokens == len(template.encode("<|im_start|>system\ns<|im_end|>\n" + text))


def test_a_repeated_prompt_is_answered_from_the_prefix_cache(server: Server) -> None:
    ask(server.client)
    cached = ask(server.client).usage.prompt_tokens_details.cached_tokens
    assert cached > 0
    assert cached % 16 == 0


@pytest.mark.parametrize("model", ["tiny", "all", "some"])
@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1.0, "seed": 4, "top_p": 0.9, "n": 2}])
def test_streaming_gives_what_not_streaming_gives(server: Server, model: str, settings: dict[str, Any]) -> None:
    settings = settings | {"model": model, "logprobs": True, "top_logprobs": 3}
    whole = ask(server.client, **settings)
    texts = [""] * len(whole.choices)
    reasons: list[str | None] = [None] * len(whole.choices)
    logprobs: list[list[Any]] = [[] for _ in whole.choices]
    usage = None
    for chunk in ask(server.client, stream=True, stream_options={"include_usage": True}, **settings):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
            logprobs[choice.index] += choice.logprobs.content if choice.logprobs else []
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
    for streamed, choice in zip(logprobs, whole.choices, strict=True):
        assert [item.token for item in streamed] == [item.token for item in choice.logprobs.content]
        assert [item.logprob for item in streamed] == pytest.approx(
            [item.logprob for item in choice.logprobs.content], abs=1e-4
        )
        assert all(len(item.top_logprobs) == 3 for item in streamed)


def test_adapters_answer_by_name_and_differ(server: Server) -> None:
    texts = [ask(server.client, model=name).choices[0].message.content for name in ("tiny", "all", "some")]
    assert len(set(texts)) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_before_it(server: Server, stream: bool) -> None:
    full = ask(server.client, extra_body={"ignore_eos": True}).choices[0].message.content
    stop = full[len(full) // 2 : len(full) // 2 + 3]
    made = ask(server.client, stop=[stop, "never written"], stream=stream, extra_body={"ignore_eos": True})
    if stream:
        chunks = [chunk.choices[0] for chunk in made]
        text, reason = "".join(chunk.delta.content or "" for chunk in chunks), chunks[-1].finish_reason
    else:
        text, reason = made.choices[0].message.content, made.choices[0].finish_reason
    assert text == full[: full.index(stop)]
    assert reason == "stop"


def test_the_same_seed_gives_the_same_text_among_concurrent_requests(server: Server) -> None:
    async def crowd() -> list[Any]:
        async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
            asked = [
                client.chat.completions.create(
                    model="all" if seed % 3 else "tiny", messages=MESSAGES, max_tokens=12, temperature=1.2, seed=seed
                )
                for seed in range(32)
            ]
            return list(await asyncio.gather(*asked))

    together = asyncio.run(crowd())
    assert [one.choices[0].message.content for one in together] == [
        ask(server.client, model="all" if seed % 3 else "tiny", temperature=1.2, seed=seed).choices[0].message.content
        for seed in range(32)
    ]


def test_completions_take_text_lists_and_token_ids(server: Server, tiny_model: BaseModelRef) -> None:
    template = Template.load(tiny_model.path)
    create = server.client.completions.create
    texts = ["Two cups of", "Stir the"]
    listed = create(model="tiny", prompt=texts, max_tokens=5, n=2, temperature=0, logprobs=2)
    assert [choice.index for choice in listed.choices] == [0, 1, 2, 3]
    for place, text in enumerate(texts):
        one = create(model="tiny", prompt=text, max_tokens=5, temperature=0).choices[0].text
        ids = create(model="tiny", prompt=template.encode(text), max_tokens=5, temperature=0).choices[0].text
        assert one == ids == listed.choices[2 * place].text == listed.choices[2 * place + 1].text
    logprobs = listed.choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.tokens or []) == len(logprobs.text_offset or []) == 5
    streamed = create(model="tiny", prompt=texts[0], max_tokens=5, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == listed.choices[0].text


REFUSED: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"model": "absent"}, 404, "model_not_found", "model"),
    ({"extra_body": {"frobnicate": 1}}, 400, "unknown_parameter", "frobnicate"),
    ({"extra_body": {"repetition_penalty": 1.2}}, 400, "unsupported_parameter", "repetition_penalty"),
    ({"extra_body": {"best_of": 2}}, 400, "unsupported_parameter", "best_of"),
    ({"functions": [{"name": "f"}]}, 400, "unsupported_parameter", "functions"),
    ({"frequency_penalty": 2.5}, 400, "invalid_value", "frequency_penalty"),
    ({"presence_penalty": -3}, 400, "invalid_value", "presence_penalty"),
    ({"logit_bias": {"5": 101}}, 400, "invalid_value", "logit_bias.5"),
    ({"logit_bias": {"49152": 1}}, 400, "invalid_value", "logit_bias"),
    ({"logit_bias": {"word": 1}}, 400, "invalid_value", "logit_bias.word"),
    ({"store": True}, 400, "unsupported_parameter", "store"),
    ({"messages": []}, 400, "invalid_messages", "messages"),
    ({"messages": [{"role": "judge", "content": "x"}]}, 400, "invalid_messages", "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, 400, "invalid_messages", "messages[0].content"),
    ({"temperature": 2.5}, 400, "invalid_value", "temperature"),
    ({"top_p": 0}, 400, "invalid_value", "top_p"),
    ({"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
    ({"max_tokens": 5000}, 400, "context_length_exceeded", "messages"),
    ({"messages": [{"role": "user", "content": "word " * 3000}]}, 400, "context_length_exceeded", "messages"),
    ({"n": 0}, 400, "invalid_value", "n"),
    ({"stop": ["a", "b", "c", "d", "e"]}, 400, "invalid_value", "stop"),
    ({"top_logprobs": 3}, 400, "invalid_value", None),
    ({"logprobs": True, "top_logprobs": 21}, 400, "invalid_value", "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, 400, "invalid_value", None),
]


@pytest.mark.parametrize(("changes", "status", "code", "param"), REFUSED, ids=[f"{row[2]}-{row[3]}" for row in REFUSED])
def test_refusals_name_the_field(
    server: Server, changes: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        ask(server.client, **changes)
    body: Any = refused.value.body
    assert (refused.value.status_code, body["code"], body["param"]) == (status, code, param)
    assert body["type"] == "invalid_request_error"
    if code == "context_length_exceeded":
        assert "2048" in body["message"]
    if code == "model_not_found":
        assert "tiny, all, some" in body["message"]


def test_fields_that_ask_for_nothing_are_accepted(server: Server) -> None:
    harmless: dict[str, Any] = {
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "logit_bias": {},
        "response_format": {"type": "text"},
        "user": "someone",
        "metadata": {"a": "b"},
        "store": False,
        "n": 1,
        "logprobs": False,
        "parallel_tool_calls": True,
    }
    assert ask(server.client, **harmless).choices[0].message.content == ask(server.client).choices[0].message.content


def test_a_body_that_is_no_json_object_and_a_wrong_path_get_openais_envelope(server: Server) -> None:
    for response, status in (
        (httpx.post(server.base_url + "/chat/completions", content=b"{"), 400),
        (httpx.post(server.base_url + "/chat/completions", content=b"[]"), 400),
        (httpx.get(server.base_url + "/nothing"), 404),
        (httpx.get(server.base_url + "/chat/completions"), 405),
    ):
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_an_adapter_is_loaded_used_and_unloaded_at_run_time(server: Server, adapters: dict[str, Path]) -> None:
    began = time.monotonic()
    loaded = httpx.post(
        server.base_url + "/load_lora_adapter", json={"lora_name": "late", "lora_path": str(adapters["all"])}
    )
    assert loaded.status_code == 200
    assert time.monotonic() - began < 1
    assert ask(server.client, model="late").choices[0].message.content != ask(server.client).choices[0].message.content
    twice = httpx.post(
        server.base_url + "/load_lora_adapter", json={"lora_name": "late", "lora_path": str(adapters["all"])}
    )
    assert (twice.status_code, twice.json()["error"]["code"]) == (400, "adapter_exists")
    assert httpx.post(server.base_url + "/unload_lora_adapter", json={"lora_name": "late"}).status_code == 200
    assert httpx.post(server.base_url + "/unload_lora_adapter", json={"lora_name": "late"}).status_code == 404
    with pytest.raises(openai.NotFoundError):
        ask(server.client, model="late")


def answer_soon(client: OpenAI) -> None:
    """The server answers within the time in which its running request could not have ended."""
    began = time.monotonic()
    while time.monotonic() - began < 3:
        try:
            assert ask(client, max_tokens=2).choices
        except openai.RateLimitError:
            time.sleep(0.02)
        else:
            return
    pytest.fail("the place was not freed")


def test_a_client_that_goes_away_frees_its_place(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    running = start(tiny_model.path, tmp_path / "ready.json", "--max-running", "1", "--max-waiting", "0")
    try:
        body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 1900, "ignore_eos": True}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(running.base_url + "/chat/completions", json=body, timeout=httpx.Timeout(5, read=0.2))
        answer_soon(running.client)
        with httpx.stream("POST", running.base_url + "/chat/completions", json=body | {"stream": True}) as streaming:
            assert streaming.status_code == 200
            with pytest.raises(openai.RateLimitError) as refused:
                ask(running.client)
            assert refused.value.response.headers["retry-after"] == "1"
        answer_soon(running.client)
    finally:
        running.client.close()
        running.process.kill()
        running.process.wait()


def test_sigterm_lets_requests_finish(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    running = start(tiny_model.path, tmp_path / "ready.json")
    stream = ask(running.client, stream=True, max_tokens=300, extra_body={"ignore_eos": True})
    chunks = [next(stream)]
    running.process.send_signal(signal.SIGTERM)
    chunks += list(stream)
    assert chunks[-1].choices[0].finish_reason == "length"
    running.client.close()
    assert running.process.wait(timeout=30) == 0


def test_a_model_that_cannot_be_read_ends_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonsense"}))
    with pytest.raises(AssertionError, match="ended with"):
        start(tmp_path, tmp_path / "ready.json")
