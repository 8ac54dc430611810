import asyncio
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fastapi.responses import HTMLResponse, JSONResponse, Response

from evaluate.fake_server import FakeServer, completion, error, question, serving
from evaluate.making import answer
from tunewise.contracts.chat import (
    AssistantMessage,
    FunctionCall,
    FunctionSpec,
    Json,
    SystemMessage,
    TextPart,
    Tool,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from tunewise.contracts.evaluation import Answer, Fit
from tunewise.errors import EvaluationError
from tunewise.evaluate.answer_log import AnswerLog, Collected
from tunewise.evaluate.arms import ArmRequests, Request
from tunewise.evaluate.client import GIVE_UP_AFTER, Sampling, Server, answer_arm, collect, wire_message, wire_tool

SAMPLING = Sampling(max_completion_tokens=16, temperature=0.0, seed=7)


@pytest.fixture(scope="module")
def running() -> Iterator[FakeServer]:
    with serving() as fake:
        yield fake


@pytest.fixture
def fake(running: FakeServer) -> FakeServer:
    running.forget()
    return running


def requests(count: int) -> list[Request]:
    return [Request(index, (SystemMessage("s"), UserMessage(f"q{index}")), None) for index in range(count)]


def ask(
    fake: FakeServer, count: int, *, concurrency: int = 4, retries: int = 1, collected: Sequence[Answer] = ()
) -> list[Answer]:
    server = Server(fake.base_url, "m", max_retries=retries)
    return asyncio.run(collect(requests(count), server, SAMPLING, concurrency=concurrency, collected=collected))


def test_answers_come_back_in_row_order_whatever_order_they_arrive_in(fake: FakeServer) -> None:
    drawn = random.Random(1)
    fake.delay = lambda _: drawn.random() / 10
    assert [answer.text for answer in ask(fake, 12)] == [f"re: q{index}" for index in range(12)]


def test_an_answer_carries_tokens_cache_hits_and_latency(fake: FakeServer) -> None:
    fake.delay = lambda _: 0.1
    (got,) = ask(fake, 1)
    assert (got.prompt_tokens, got.cached_tokens, got.completion_tokens, got.finish_reason) == (11, 3, 5, "stop")
    assert 0.1 <= got.seconds < 5
    assert got.error is None


def test_a_server_that_says_nothing_of_its_cache_hit_nothing(fake: FakeServer) -> None:
    fake.reply = lambda _: completion("x", cached=None)
    assert ask(fake, 1)[0].cached_tokens == 0


@pytest.mark.parametrize("concurrency", [1, 3])
def test_exactly_as_many_requests_as_allowed_are_under_way(fake: FakeServer, concurrency: int) -> None:
    fake.delay = lambda _: 0.05
    ask(fake, 9, concurrency=concurrency)
    assert fake.peak == concurrency


def test_the_request_says_how_to_answer(fake: FakeServer) -> None:
    ask(fake, 1)
    assert fake.history == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q0"}],
            "max_completion_tokens": 16,
            "temperature": 0.0,
            "seed": 7,
        }
    ]


def test_a_row_with_less_room_asks_for_a_shorter_answer(fake: FakeServer) -> None:
    roomy, tight = requests(2)
    asked = ArmRequests("a", "prompt", (roomy, tight._replace(completion=3)), {}, Fit(lowered_limits=1))
    answers = asyncio.run(answer_arm(asked, Server(fake.base_url, "m"), SAMPLING, concurrency=1))
    assert [body["max_completion_tokens"] for body in fake.history] == [16, 3]
    assert answers.fit == asked.fit


def test_the_key_of_the_environment_is_never_sent_to_a_server_without_one(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    ask(fake, 1)
    assert fake.keys == ["Bearer none"]


def test_a_proxy_does_not_get_between_two_processes_of_one_machine(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert ask(fake, 1)[0].error is None


def test_a_passing_fault_is_retried(fake: FakeServer) -> None:
    fake.reply = lambda body: error(503, "busy") if len(fake.history) == 1 else completion("ok")
    assert [answer.text for answer in ask(fake, 2)] == ["ok", "ok"]


def fails_for_q1(reply: Response) -> Json:
    return lambda body: reply if question(body) == "q1" else completion("ok")


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        (error(500, "lost its mind"), "HTTP 500.*lost its mind"),
        (error(400, "too long for the context"), "HTTP 400.*too long"),
        (HTMLResponse("<html>proxy</html>"), "no chat completion"),
        (JSONResponse({**completion("x"), "choices": []}), "no chat completion"),
        (JSONResponse({}), "no chat completion"),
    ],
)
def test_a_row_that_fails_is_an_answer_with_its_error(fake: FakeServer, reply: Response, what: str) -> None:
    fake.reply = fails_for_q1(reply)
    first, second, third = ask(fake, 3)
    assert (first.text, third.text) == ("ok", "ok")
    assert (second.text, second.finish_reason) == ("", "error")
    with pytest.raises(AssertionError, match=what):
        raise AssertionError(second.error)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_stops_at_once_with_the_servers_words(fake: FakeServer, status: int) -> None:
    fake.reply = lambda _: error(status, "no such thing")
    with pytest.raises(EvaluationError, match=f"refused model 'm': HTTP {status}.*no such thing") as raised:
        ask(fake, 50, concurrency=2)
    assert raised.value.code == "request_refused"
    assert len(fake.history) <= 4


def test_when_every_row_fails_the_first_cause_is_raised(fake: FakeServer) -> None:
    fake.reply = lambda body: error(400, f"bad {question(body)}")
    with pytest.raises(EvaluationError, match=r"answered no row.*bad q0"):
        ask(fake, 3)


def test_a_server_without_usage_is_refused_as_costs_would_be_unknown(fake: FakeServer) -> None:
    fake.reply = lambda _: {**completion("x"), "usage": None}
    with pytest.raises(EvaluationError, match="token usage"):
        ask(fake, 1)


def test_a_server_that_is_not_there_is_given_up_soon(fake: FakeServer) -> None:
    gone = FakeServer("http://127.0.0.1:9/v1")
    with pytest.raises(EvaluationError, match=r"no connection to http://127\.0\.0\.1:9/v1") as raised:
        ask(gone, 1000, concurrency=GIVE_UP_AFTER, retries=0)
    assert raised.value.code == "server_unreachable"


def test_a_slow_row_times_out_alone(fake: FakeServer) -> None:
    fake.delay = lambda body: 5.0 if question(body) == "q1" else 0.0
    server = Server(fake.base_url, "m", max_retries=0, timeout=0.3)
    got = asyncio.run(collect(requests(3), server, SAMPLING, concurrency=3))
    assert [answer.error is None for answer in got] == [True, False, True]


def test_half_a_surrogate_pair_does_not_break_the_record(fake: FakeServer) -> None:
    fake.reply = lambda _: Response(json.dumps(completion("a\ud800b")), media_type="application/json")
    assert Answer.model_validate_json(ask(fake, 1)[0].model_dump_json()).text == "a?b"


def test_an_answer_without_text_is_empty(fake: FakeServer) -> None:
    fake.reply = lambda _: completion(None, finish_reason="tool_calls")
    (got,) = ask(fake, 1)
    assert (got.text, got.finish_reason, got.error) == ("", "tool_calls", None)


def test_no_requests_need_no_server() -> None:
    assert asyncio.run(collect([], Server("http://127.0.0.1:9/v1", "m"), SAMPLING, concurrency=2)) == []


def test_a_cancelled_call_ends_at_once_and_leaves_no_request_behind(fake: FakeServer) -> None:
    fake.delay = lambda _: 30.0

    async def cancelled() -> float:
        task = asyncio.create_task(collect(requests(8), Server(fake.base_url, "m"), SAMPLING, concurrency=4))
        while fake.peak < 4:
            await asyncio.sleep(0.01)
        started = time.perf_counter()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        seconds = time.perf_counter() - started
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return seconds

    assert asyncio.run(cancelled()) < 5
    assert len(fake.history) == 4
    deadline = time.monotonic() + 10
    while fake.dropped < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert fake.dropped == 4


def test_rows_with_an_answer_are_not_asked_again_but_failed_rows_are(fake: FakeServer) -> None:
    earlier = [answer("kept", 0), answer("", 1, error="HTTP 500")]
    got = ask(fake, 3, collected=earlier)
    assert [entry.text for entry in got] == ["kept", "re: q1", "re: q2"]
    assert sorted(question(body) for body in fake.history) == ["q1", "q2"]


def test_an_interrupted_arm_goes_on_from_its_log(fake: FakeServer, tmp_path: Path) -> None:
    arm = ArmRequests("prompt", "prompt", tuple(requests(6)), {})
    server = Server(fake.base_url, "m", max_retries=0)
    path = tmp_path / "cache" / "prompt.jsonl"

    def run() -> list[str]:
        with AnswerLog(path) as log:
            done = answer_arm(arm, server, SAMPLING, concurrency=1, on_answer=log.write, collected=log.collected)
            return [entry.text for entry in asyncio.run(done).answers]

    fake.reply = lambda body: error(401, "expired") if question(body) == "q3" else completion(question(body))
    with pytest.raises(EvaluationError):
        run()
    fake.history.clear()
    fake.reply = lambda body: completion(question(body))
    assert run() == [f"q{index}" for index in range(6)]
    assert [question(body) for body in fake.history] == ["q3", "q4", "q5"]


def test_an_arms_record_holds_what_a_reader_needs_to_repeat_it(fake: FakeServer) -> None:
    arm = ArmRequests("shots", "few_shot", tuple(requests(2)), {"k": 3})
    collected = Collected([answer("kept", 0)], 10.0, 1)
    done = asyncio.run(answer_arm(arm, Server(fake.base_url, "m"), SAMPLING, concurrency=5, collected=collected))
    assert (done.arm, done.kind, done.model, done.concurrency) == ("shots", "few_shot", "m", 5)
    assert done.settings == {"k": 3, "temperature": 0.0, "max_completion_tokens": 16}
    assert 10 < done.wall_seconds < 20


def test_messages_are_sent_without_empty_fields_and_without_the_training_weight() -> None:
    call = ToolCall("1", FunctionCall("f", "{}"))
    assert wire_message(AssistantMessage("a", weight=0)) == {"role": "assistant", "content": "a"}
    assert wire_message(AssistantMessage(tool_calls=[call])) == {
        "role": "assistant",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    assert wire_message(UserMessage([TextPart("t")]))["content"] == [{"type": "text", "text": "t"}]
    assert wire_message(ToolMessage("r", "1")) == {"role": "tool", "content": "r", "tool_call_id": "1"}


def test_a_tools_schema_is_sent_as_it_stands() -> None:
    schema = {"type": "object", "properties": {"weight": {"type": "number", "default": None}}}
    assert wire_tool(Tool(FunctionSpec("f", parameters=schema))) == {
        "type": "function",
        "function": {"name": "f", "parameters": schema},
    }


def test_tools_are_sent_with_the_request(fake: FakeServer) -> None:
    request = Request(0, (UserMessage("q"),), (Tool(FunctionSpec("f")),))
    asyncio.run(collect([request], Server(fake.base_url, "m"), SAMPLING, concurrency=1))
    assert fake.history[0]["tools"] == [{"type": "function", "function": {"name": "f"}}]
