"""The engine `vllm` with a real vLLM, the real base model and the real SDK; minutes on two cores.

TUNEWISE_TEST_VLLM names the Python of an environment with vLLM; benchmarks/generate_vs_vllm.py says how to make one.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from openai import OpenAI

from api.live import Live, live
from jobs.tuned import BASE, add_tuned, make_platform
from serve.running import start
from tunewise.contracts.jobs import TunedModel
from tunewise.contracts.run import BaseModelRef
from tunewise.jobs import elsewhere
from tunewise.jobs.elsewhere import ToHost
from tunewise.settings import OpenAIEngine, VllmEngine

PYTHON = os.environ.get("TUNEWISE_TEST_VLLM")
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 8,
    "temperature": 0,
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="TUNEWISE_TEST_VLLM names no Python with vLLM"),
]


@pytest.fixture(scope="module")
def server(smollm2: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    engine = VllmEngine(
        kind="vllm",
        python=PYTHON,
        max_lora_rank=8,
        max_loras=2,
        arguments=("--dtype", "float32", "--max-model-len", "1024", "--gpu-memory-utilization", "0.25"),
    )
    platform = make_platform(tmp_path_factory.mktemp("home"), smollm2, engine=engine)
    with live(platform) as running:
        yield running


@pytest.fixture(scope="module")
def tuned(server: Live, smollm2: BaseModelRef) -> TunedModel:
    return add_tuned(server.platform, smollm2)


@pytest.fixture(scope="module")
def client(server: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=500) as client:
        yield client


@pytest.fixture(scope="module")
def ours(server: Live, smollm2: BaseModelRef, tuned: TunedModel, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What our own engine answers: the base model, and the tuned one."""
    adapter = server.platform.settings.state_dir / tuned.adapter
    running = start(smollm2.path, tmp_path_factory.mktemp("ours") / "ready.json", "--adapter", f"tuned={adapter}")
    try:
        return [said(running.client, name) for name in ("tiny", "tuned")]
    finally:
        running.client.close()
        running.process.terminate()
        running.process.wait(60)


def said(client: OpenAI, model: str) -> str:
    return str(client.chat.completions.create(model=model, **ASKED).choices[0].message.content)


def vllm_of(server: Live) -> psutil.Process:
    (program,) = psutil.Process(server.relay.hosting.servers()[BASE].pid).children()
    return program


def test_base_and_tuned_models_answer_as_on_our_engine(client: OpenAI, tuned: TunedModel, ours: list[str]) -> None:
    assert [said(client, BASE), said(client, tuned.name)] == ours
    assert ours[0] != ours[1]


def test_streams_end_with_usage_and_our_names(client: OpenAI, tuned: TunedModel, ours: list[str]) -> None:
    stream = client.chat.completions.create(
        model=tuned.azure_name, stream=True, stream_options={"include_usage": True}, **ASKED
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ours[1]
    assert {chunk.model for chunk in chunks} == {tuned.azure_name}
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


def test_its_refusals_come_in_openai_s_envelope(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot be greater than max_model_len=1024"):
        client.chat.completions.create(model=BASE, **ASKED | {"max_tokens": 10**6})


def test_a_damaged_adapter_is_refused_in_its_words(server: Live, smollm2: BaseModelRef, client: OpenAI) -> None:
    damaged = add_tuned(server.platform, smollm2, seed=2)
    (server.platform.settings.state_dir / damaged.adapter / "adapter_model.safetensors").write_bytes(b"{}")
    with pytest.raises(openai.NotFoundError, match="cannot be hosted: ") as refused:
        said(client, damaged.name)
    assert refused.value.code == "model_unavailable"


def test_somebody_s_vllm_takes_adapters_and_loses_them(
    server: Live, client: OpenAI, tuned: TunedModel, ours: list[str], tmp_path: Path
) -> None:
    """The same vLLM, as if another had started it: `tunewise run` with `engine: {kind: openai}`."""
    assert said(client, BASE) == ours[0]
    base_url = server.relay.hosting.servers()[BASE].base_url
    settings = server.platform.settings.model_copy(update={"engine": OpenAIEngine(kind="openai", base_url=base_url)})
    adapters = {"ft:mine": server.platform.settings.state_dir / tuned.adapter}
    with (
        OpenAI(base_url=base_url, api_key="none") as there,
        elsewhere.hosted(ToHost(BASE, None, adapters, "ft:mine"), settings, tmp_path) as asked,
    ):
        assert (asked.model, said(there, asked.model)) == ("ft:mine", ours[1])
        assert "ft:mine" in {one.id for one in there.models.list()}
    with OpenAI(base_url=base_url, api_key="none") as there:
        assert "ft:mine" not in {one.id for one in there.models.list()}


def test_killed_it_comes_back_with_the_adapter_and_ends_with_us(
    server: Live, client: OpenAI, tuned: TunedModel, ours: list[str]
) -> None:
    program = vllm_of(server)
    family = [program, *program.children(recursive=True)]
    program.kill()
    assert said(client, tuned.name) == ours[1]
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
