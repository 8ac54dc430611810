"""Hosting with real model servers: one per base model, adapters on demand, restarts, idle ends."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.tuned import BASE, PROJECT, add_tuned, make_platform
from tunewise.contracts.jobs import Caller, TunedModel
from tunewise.contracts.run import BaseModelRef
from tunewise.errors import RequestError, ServingError
from tunewise.jobs.hosting import Hosted, Hosting, find_model
from tunewise.jobs.names import Resolved
from tunewise.jobs.platform import Platform

PLAIN = Resolved(BASE, None)


def tuned(model: TunedModel) -> Resolved:
    return Resolved(model.base, model)


@pytest.fixture
def platform(tmp_path: Path, tiny_model: BaseModelRef) -> Platform:
    return make_platform(tmp_path / "home", tiny_model, hosted_adapters=2)


async def answer(hosting: Hosting, model: Resolved) -> str:
    async with hosting.hosted(model) as hosted:
        return await ask(hosting, hosted)


async def ask(hosting: Hosting, hosted: Hosted) -> str:
    body = {"model": hosted.name, "prompt": "one two", "max_tokens": 8, "temperature": 0}
    reply = await hosting.client.post(f"{hosted.server.base_url}/completions", json=body)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["text"])


def run(platform: Platform, test: Callable[[Hosting], Coroutine[Any, Any, None]]) -> None:
    """Run the test in a hosting of its own, and see that it leaves no process behind."""

    async def with_hosting() -> list[int]:
        async with started(platform) as hosting:
            await test(hosting)
            return [server.pid for server in hosting.servers().values()]

    pids = asyncio.run(with_hosting())
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


@asynccontextmanager
async def started(platform: Platform) -> AsyncIterator[Hosting]:
    hosting = Hosting(platform)
    async with hosting.running():
        yield hosting


def children_hosting(path: Path) -> list[int]:
    return [child.pid for child in psutil.Process().children() if str(path) in " ".join(child.cmdline())]


def test_a_hundred_first_requests_start_one_server(platform: Platform) -> None:
    async def test(hosting: Hosting) -> None:
        texts = await asyncio.gather(*(answer(hosting, PLAIN) for _ in range(100)))
        assert len(set(texts)) == 1
        assert len(children_hosting(platform.settings.models_dir)) == 1

    run(platform, test)


def test_adapters_are_loaded_when_asked_for_and_the_least_recently_used_goes(
    platform: Platform, tiny_model: BaseModelRef
) -> None:
    first, second, third = (add_tuned(platform, tiny_model, seed=seed) for seed in (1, 2, 3))

    async def test(hosting: Hosting) -> None:
        texts = [await answer(hosting, model) for model in (PLAIN, tuned(first), tuned(second))]
        assert len(set(texts)) == 3
        assert await answer(hosting, tuned(first)) == texts[1]
        await answer(hosting, tuned(third))
        server = hosting.servers()[BASE]
        assert list(server.adapters) == [first.name, third.name]
        assert await answer(hosting, tuned(second)) == texts[2]

    run(platform, test)


def test_an_adapter_in_use_is_not_unloaded(platform: Platform, tiny_model: BaseModelRef) -> None:
    names = [add_tuned(platform, tiny_model, seed=seed) for seed in (1, 2, 3)]

    async def test(hosting: Hosting) -> None:
        async with hosting.hosted(tuned(names[0])) as one, hosting.hosted(tuned(names[1])) as two:
            before = [await ask(hosting, one), await ask(hosting, two)]
            await answer(hosting, tuned(names[2]))
            assert [await ask(hosting, one), await ask(hosting, two)] == before

    run(platform, test)


def test_a_killed_server_is_started_again_by_the_next_request(platform: Platform, tiny_model: BaseModelRef) -> None:
    model = tuned(add_tuned(platform, tiny_model))

    async def test(hosting: Hosting) -> None:
        before = await answer(hosting, model)
        killed = hosting.servers()[BASE]
        os.kill(killed.pid, signal.SIGKILL)
        assert await killed.has_died()
        assert await answer(hosting, model) == before
        assert hosting.servers()[BASE].pid != killed.pid

    run(platform, test)


def test_an_idle_server_is_stopped_and_comes_back(tmp_path: Path, tiny_model: BaseModelRef) -> None:
    platform = make_platform(tmp_path / "home", tiny_model, idle_seconds=0.5)

    async def test(hosting: Hosting) -> None:
        async with hosting.hosted(PLAIN) as hosted:
            await asyncio.sleep(1.5)
            before = await ask(hosting, hosted)
        assert await hosted.server.has_died()
        assert hosting.servers() == {}
        assert await answer(hosting, PLAIN) == before

    run(platform, test)


def test_a_request_that_leaves_does_not_end_the_start(platform: Platform) -> None:
    async def test(hosting: Hosting) -> None:
        leaving = asyncio.create_task(answer(hosting, PLAIN))
        await asyncio.sleep(0.3)
        (pid,) = children_hosting(platform.settings.models_dir)
        leaving.cancel()
        await answer(hosting, PLAIN)
        assert hosting.servers()[BASE].pid == pid

    run(platform, test)


def test_ending_during_a_start_leaves_no_process(platform: Platform) -> None:
    async def test(hosting: Hosting) -> None:
        leaving = asyncio.create_task(answer(hosting, PLAIN))
        await asyncio.sleep(0.3)
        assert children_hosting(platform.settings.models_dir)
        leaving.cancel()

    run(platform, test)
    assert not children_hosting(platform.settings.models_dir)


def test_a_model_whose_files_are_gone_says_which_and_what_to_do(platform: Platform, tiny_model: BaseModelRef) -> None:
    model = add_tuned(platform, tiny_model)
    (platform.settings.state_dir / model.adapter / "adapter_model.safetensors").unlink()

    async def test(hosting: Hosting) -> None:
        with pytest.raises(RequestError, match=r"adapter_model\.safetensors is not in runs/.*tune it again") as caught:
            await answer(hosting, tuned(model))
        assert caught.value.code == "model_unavailable"

    run(platform, test)


def test_a_damaged_adapter_is_refused_in_the_servers_words(platform: Platform, tiny_model: BaseModelRef) -> None:
    model = add_tuned(platform, tiny_model)
    (platform.settings.state_dir / model.adapter / "adapter_model.safetensors").write_bytes(b"{}")

    async def test(hosting: Hosting) -> None:
        with pytest.raises(RequestError, match=r"adapter_model\.safetensors cannot be read") as caught:
            await answer(hosting, tuned(model))
        assert caught.value.code == "model_unavailable"

    run(platform, test)


def test_all_who_wait_for_a_server_that_cannot_start_share_its_failure(platform: Platform, tmp_path: Path) -> None:
    place = platform.settings.models_dir / f"hub--{BASE.replace('/', '--')}"
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in place.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / "config.json").write_text('{"model_type": "nothing", "max_position_embeddings": 9}')
    place.unlink()
    place.symlink_to(damaged)

    async def test(hosting: Hosting) -> None:
        failures = await asyncio.gather(*(answer(hosting, PLAIN) for _ in range(8)), return_exceptions=True)
        assert all(isinstance(failure, ServingError) and failure.code == "serve_failed" for failure in failures)
        assert len({id(failure) for failure in failures}) == 1

    run(platform, test)


def test_names_of_both_dialects_and_ids_mean_the_model(platform: Platform, tiny_model: BaseModelRef) -> None:
    model = add_tuned(platform, tiny_model)
    caller = Caller(organization="o", project=PROJECT, role="admin")
    for name in (model.name, model.azure_name, model.id):
        assert find_model(platform, caller, name) == Resolved(BASE, model)
    with pytest.raises(RequestError, match="does not exist") as caught:
        find_model(platform, Caller(organization="o", project="other", role="admin"), model.name)
    assert caught.value.code == "model_not_found"
