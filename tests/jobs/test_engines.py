"""The three engines behind one seam, with real servers: another's, and one on a leash as vLLM is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from openai import OpenAI

from api.live import Live, live
from jobs.foreign_server import foreign
from jobs.nursery import Nursery
from jobs.tuned import BASE, add_tuned, make_platform
from jobs.vllm_like import make_python
from serve.running import Server, start
from tunewise import embedding_models
from tunewise.contracts.jobs import TunedModel
from tunewise.contracts.run import BaseModelRef
from tunewise.embedding_models import DEFAULT_EMBEDDINGS
from tunewise.errors import ServingError
from tunewise.evaluate.client import Server as Asked
from tunewise.jobs import elsewhere
from tunewise.jobs.child import LEASH
from tunewise.jobs.elsewhere import ToHost
from tunewise.jobs.platform import Platform
from tunewise.settings import OpenAIEngine, Settings, TorchEngine, VllmEngine

MESSAGES: list[Any] = [{"role": "user", "content": "Title: Crème brûlée"}]
WAIT_SECONDS = 60.0


def ask(client: OpenAI, **changes: Any) -> Any:  # noqa: ANN401  # the SDK's overloads cannot be spread
    wanted: dict[str, Any] = {"model": BASE, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    return client.chat.completions.create(**wanted | changes)


def text(client: OpenAI, **changes: object) -> str:
    return str(ask(client, **changes).choices[0].message.content)


def until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def another(model: BaseModelRef, directory: Path, *flags: str) -> Iterator[Server]:
    """A server that somebody else runs."""
    running = start(model.path, directory / f"{time.monotonic_ns()}.json", *flags)
    try:
        yield running
    finally:
        running.client.close()
        running.process.terminate()
        running.process.wait(60)


@pytest.fixture(scope="module")
def other(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with another(tiny_model, tmp_path_factory.mktemp("other")) as running:
        yield running


def at(base_url: str, **changes: Any) -> OpenAIEngine:  # noqa: ANN401  # any field
    return OpenAIEngine(**{"kind": "openai", "base_url": base_url, "models": {BASE: "tiny"}} | changes)


@contextmanager
def client_of(running: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0, timeout=240) as client:
        yield client


def served_names(server: Server) -> list[str]:
    return [one.id for one in server.client.models.list()]


@pytest.fixture(scope="module")
def ours(
    tiny_model: BaseModelRef, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[TunedModel | None], str]]:
    """What our own engine answers to the same question, with the adapter of a tuned model."""
    engine = TorchEngine(dtype="float32")  # as the others here: texts are compared
    platform = make_platform(tmp_path_factory.mktemp("ours"), tiny_model, engine=engine)
    with live(platform, nursery=nursery) as running, client_of(running) as client:
        base = text(client)
        tuned = text(client, model=add_tuned(platform, tiny_model).name)
        yield lambda model: base if model is None else tuned


def test_another_s_server_answers_for_base_and_tuned_models_under_our_names(
    other: Server, tiny_model: BaseModelRef, nursery: Nursery, tmp_path: Path, ours: Callable[[TunedModel | None], str]
) -> None:
    platform = make_platform(tmp_path, tiny_model, engine=at(other.base_url))
    tuned = add_tuned(platform, tiny_model)
    with live(platform, nursery=nursery) as running, client_of(running) as client:
        assert (text(client), ask(client).model) == (ours(None), BASE)
        assert text(client, model=tuned.name) == ours(tuned) != ours(None)
        chunks = list(ask(client, model=tuned.azure_name, stream=True))
        assert {chunk.model for chunk in chunks} == {tuned.azure_name}
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ours(tuned)
        assert served_names(other) == ["tiny", tuned.name]
        assert [server.pid for server in running.relay.hosting.servers().values()] == [0]
        with pytest.raises(openai.BadRequestError, match="maximum context length") as refused:
            ask(client, max_tokens=10**6)
        assert refused.value.code == "context_length_exceeded"
    assert served_names(other) == ["tiny"], "our adapters leave with us"
    assert other.process.poll() is None
    assert list(platform.serve_dir.iterdir()) == [], "nothing was started here"


def test_an_adapter_that_is_loaded_there_already_is_used(
    other: Server, tiny_model: BaseModelRef, tmp_path: Path, ours: Callable[[TunedModel | None], str]
) -> None:
    platform = make_platform(tmp_path, tiny_model, engine=at(other.base_url))
    tuned = add_tuned(platform, tiny_model)
    loaded = {"lora_name": tuned.name, "lora_path": str((platform.settings.state_dir / tuned.adapter).absolute())}
    assert httpx.post(f"{other.base_url}/load_lora_adapter", json=loaded).is_success
    with live(platform) as running, client_of(running) as client:
        assert text(client, model=tuned.name) == ours(tuned)


def test_a_server_that_went_away_is_told_and_used_again_once_it_is_back(
    tiny_model: BaseModelRef, tmp_path: Path, ours: Callable[[TunedModel | None], str]
) -> None:
    with another(tiny_model, tmp_path) as first:
        port = str(httpx.URL(first.base_url).port)
        platform = make_platform(tmp_path / "home", tiny_model, engine=at(first.base_url))
        tuned = add_tuned(platform, tiny_model)
        with live(platform) as running, client_of(running) as client:
            assert text(client, model=tuned.name) == ours(tuned)
            first.process.kill()
            first.process.wait()
            with pytest.raises(openai.InternalServerError, match="see whether that server runs") as lost:
                text(client, model=tuned.name)
            assert (lost.value.status_code, lost.value.code) == (503, "model_server_stopped")
            with another(tiny_model, tmp_path, "--port", port) as second:
                assert text(client, model=tuned.name) == ours(tuned)
                assert served_names(second) == ["tiny", tuned.name]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": {BASE: "large"}}, r"has no model 'large'; it has tiny\. Say in TUNEWISE_ENGINE"),
        ({"models": {}}, f"has no model '{BASE}'; it has tiny"),
    ],
)
def test_a_model_that_is_not_there_is_refused_with_the_names_that_are(
    other: Server, tiny_model: BaseModelRef, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    platform = make_platform(tmp_path, tiny_model, engine=at(other.base_url, **changes))
    with live(platform) as running, client_of(running) as client:
        with pytest.raises(openai.NotFoundError, match=words) as refused:
            ask(client)
        assert refused.value.code == "model_unavailable"


def test_a_server_that_takes_no_adapters_is_named_with_what_to_do(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    """The server of embeddings has no such endpoint."""
    embeds = BaseModelRef.model_construct(path=embedding_models.find(DEFAULT_EMBEDDINGS).path)
    with another(embeds, tmp_path, "--embeddings") as deaf:
        platform = make_platform(tmp_path / "home", tiny_model, engine=at(deaf.base_url))
        tuned = add_tuned(platform, tiny_model)
        with live(platform) as running, client_of(running) as client:
            with pytest.raises(openai.NotFoundError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True there") as refused:
                ask(client, model=tuned.name)
            assert refused.value.code == "model_unavailable"
            with pytest.raises(openai.NotFoundError, match="Not Found"):
                ask(client)


def test_models_that_only_another_server_has_are_listed_asked_and_not_tuned(
    other: Server, tiny_model: BaseModelRef, tmp_path: Path, ours: Callable[[TunedModel | None], str]
) -> None:
    engine = at(other.base_url, models={"far-away": "tiny"})
    with live(make_platform(tmp_path, tiny_model, engine=engine)) as running, client_of(running) as client:
        assert "far-away" in {one.id for one in client.models.list()}
        assert (text(client, model="far-away"), ask(client, model="far-away").model) == (ours(None), "far-away")
        file = client.files.create(file=("rows.jsonl", b"{}\n" * 12), purpose="fine-tune")
        with pytest.raises(openai.BadRequestError, match="its weights are not here") as refused:
            client.fine_tuning.jobs.create(model="far-away", training_file=file.id)
        assert refused.value.code == "model_not_tunable"


def test_embeddings_stay_ours_unless_they_are_said_to_be_there(
    other: Server, tiny_model: BaseModelRef, nursery: Nursery, tmp_path: Path
) -> None:
    platform = make_platform(tmp_path, tiny_model, engine=at(other.base_url))
    with live(platform, nursery=nursery) as running, client_of(running) as client:
        assert len(client.embeddings.create(model=DEFAULT_EMBEDDINGS, input="a").data[0].embedding) == 384
        assert running.relay.hosting.servers()[DEFAULT_EMBEDDINGS].pid > 0


def test_a_key_is_shown_and_a_missing_one_told(
    tiny_model: BaseModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with foreign() as server:
        engine = at(server.base_url, api_key_env="TESTS_ENGINE_KEY")
        with live(make_platform(tmp_path, tiny_model, engine=engine)) as running, client_of(running) as client:
            with pytest.raises(openai.InternalServerError, match="TESTS_ENGINE_KEY is not set") as refused:
                ask(client)
            assert refused.value.status_code == 503
            monkeypatch.setenv("TESTS_ENGINE_KEY", "sesame")
            server.answers["/v1/chat/completions"] = (418, "application/json", b'{"error": {"message": "as it is"}}')
            with pytest.raises(openai.APIStatusError, match="as it is"):
                ask(client)
    assert set(server.keys) == {"Bearer sesame"}


@pytest.mark.parametrize(
    ("status", "kind", "body", "message"),
    [
        (404, "application/json", b'{"detail": "Not Found"}', 'The model server answered 404: {"detail": "Not Found"}'),
        (502, "text/html", b"<h1>Bad Gateway</h1>", "The model server answered 502: <h1>Bad Gateway</h1>"),
        (429, "application/json", b'{"error": {"message": "slower", "code": "busy"}}', "slower"),
        (200, "text/html", b"<p>Welcome</p>", "The model server answered 200 and no JSON"),
    ],
)
def test_errors_of_any_shape_come_in_openai_s(
    tiny_model: BaseModelRef, tmp_path: Path, status: int, kind: str, body: bytes, message: str
) -> None:
    with foreign() as server:
        server.answers["/v1/chat/completions"] = (status, kind, body)
        with live(make_platform(tmp_path, tiny_model, engine=at(server.base_url))) as running:
            wanted = {"model": BASE, "messages": MESSAGES}
            answer = running.http.post("/v1/chat/completions", json=wanted)
    assert answer.status_code == (500 if status == 200 else status)
    assert answer.json()["error"]["message"] == message
    assert status == 200 or answer.headers["retry-after"] == "7"


def test_what_lists_no_models_is_no_engine(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    with foreign() as server:
        server.answers["/v1/models"] = (200, "text/html", b"<p>Welcome</p>")
        with live(make_platform(tmp_path, tiny_model, engine=at(server.base_url))) as running:
            answer = running.http.post("/v1/chat/completions", json={"model": BASE, "messages": MESSAGES})
    assert answer.status_code == 503
    assert "is that the address of an OpenAI-compatible server, ending in /v1" in answer.json()["error"]["message"]


def test_an_answer_that_is_too_long_in_coming_is_told(tiny_model: BaseModelRef, other: Server, tmp_path: Path) -> None:
    platform = make_platform(tmp_path, tiny_model, engine=at(other.base_url, timeout_seconds=0.6))
    with live(platform) as running, client_of(running) as client:
        other.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(openai.InternalServerError, match="was silent for too long"):
                ask(client)
        finally:
            other.process.send_signal(signal.SIGCONT)
        assert text(client)


def on_leash(directory: Path, **changes: Any) -> VllmEngine:  # noqa: ANN401  # any field
    directory.mkdir(exist_ok=True)
    given = {"kind": "vllm", "python": str(make_python(directory)), "arguments": ("--dtype", "float32")}
    return VllmEngine(**given | changes)


def program_of(running: Live) -> psutil.Process:
    """What the leash holds."""
    (program,) = psutil.Process(running.relay.hosting.servers()[BASE].pid).children()
    return program


def test_a_program_on_a_leash_hosts_loads_adapters_comes_back_and_ends(
    tiny_model: BaseModelRef, tmp_path: Path, ours: Callable[[TunedModel | None], str]
) -> None:
    platform = make_platform(tmp_path / "home", tiny_model, engine=on_leash(tmp_path / "venv"))
    tuned = add_tuned(platform, tiny_model)
    with live(platform) as running, client_of(running) as client:
        assert text(client) == ours(None)
        assert text(client, model=tuned.name) == ours(tuned)
        killed = program_of(running)
        killed.kill()
        assert text(client, model=tuned.name) == ours(tuned)
        back = program_of(running)
        assert back.pid != killed.pid
    assert not back.is_running()
    (log,) = platform.serve_dir.glob("*.log")
    assert "hosting" in log.read_text()


def test_a_start_that_fails_names_its_log_and_the_python(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    platform = make_platform(tmp_path, tiny_model, engine=VllmEngine(kind="vllm", python=sys.executable))
    with live(platform) as running, client_of(running) as client:
        with pytest.raises(
            openai.InternalServerError, match=r"its log is serve/tests-tiny-.*Is it installed"
        ) as failed:
            ask(client)
        assert failed.value.code == "serve_failed"
    (log,) = platform.serve_dir.glob("*.log")
    assert "No module named 'vllm'" in log.read_text()


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, sys.argv[1], str(__import__("os").getpid()), "sleep", "600"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("ended", ["parent", "leash"])
def test_a_program_on_a_leash_ends_with_whoever_holds_it(ended: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(LEASH)], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        leash = psutil.Process(int(parent.stdout.readline()))
        until(lambda: [child.name() for child in leash.children()] == ["sleep"])
        (program,) = leash.children()
        os.kill(parent.pid if ended == "parent" else leash.pid, signal.SIGKILL)
        until(lambda: not program.is_running() or program.status() == psutil.STATUS_ZOMBIE)
    finally:
        parent.kill()
        parent.communicate()


def settings_of(platform: Platform, engine: OpenAIEngine | VllmEngine) -> Settings:
    return platform.settings.model_copy(update={"engine": engine})


def answered(server: Asked) -> str:
    with OpenAI(base_url=server.base_url, api_key=server.api_key or "none") as client:
        return text(client, model=server.model)


def test_an_experiment_s_models_are_hosted_there_and_let_go(
    other: Server, tiny_model: BaseModelRef, tmp_path: Path, ours: Callable[[TunedModel | None], str]
) -> None:
    platform = make_platform(tmp_path / "home", tiny_model)
    tuned = add_tuned(platform, tiny_model)
    adapters = {"ft:mine": platform.settings.state_dir / tuned.adapter}
    for engine in (at(other.base_url), on_leash(tmp_path / "venv")):
        settings = settings_of(platform, engine)
        with elsewhere.hosted(ToHost(BASE, None, {}, BASE), settings, tmp_path / "serve") as server:
            assert answered(server) == ours(None)
        with elsewhere.hosted(ToHost(BASE, None, adapters, "ft:mine"), settings, tmp_path / "serve") as server:
            assert answered(server) == ours(tuned)
    assert served_names(other) == ["tiny"]


def test_a_whole_tuned_model_cannot_be_given_to_another_s_server(
    other: Server, tiny_model: BaseModelRef, tmp_path: Path
) -> None:
    settings = settings_of(make_platform(tmp_path, tiny_model), at(other.base_url))
    whole = ToHost("ft:whole", tiny_model.path, {}, "ft:whole")
    with (
        pytest.raises(Exception, match="can be given adapters only") as refused,
        elsewhere.hosted(whole, settings, tmp_path / "serve"),
    ):
        pass
    assert not isinstance(refused.value, ServingError)
    named = settings_of(make_platform(tmp_path, tiny_model), at(other.base_url, models={"ft:whole": "tiny"}))
    with elsewhere.hosted(whole, named, tmp_path / "serve") as server:
        assert server.model == "tiny"
