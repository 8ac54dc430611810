"""Hosting with real model servers: one per base model, adapters on demand, restarts, idle ends."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from jobs.nursery import Forked, Nursery, ServerSpawner
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
def platform(tmp_path: Path, tiny_model: BaseModelRef, request: pytest.FixtureRequest) -> Platform:
    changes = getattr(request, "param", {"hosted_adapters": 2})
    return make_platform(tmp_path / "home", tiny_model, **changes)


async def answer(hosting: Hosting, model: Resolved) -> str:
    async with hosting.hosted(model) as hosted:
        return await ask(hosting, hosted)


async def ask(hosting: Hosting, hosted: Hosted) -> str:
    body = {"model": hosted.name, "prompt": "one two", "max_tokens": 8, "temperature": 0}
    reply = await hosting.client.post(f"{hosted.server.base_url}/completions", json=body)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["text"])


@pytest.fixture
def servers(nursery: Nursery) -> ServerSpawner:
    return ServerSpawner(nursery.address)


Test: TypeAlias = Callable[[Hosting], Coroutine[Any, Any, None]]


@pytest.fixture
def run(platform: Platform, servers: ServerSpawner) -> Callable[[Test], None]:
    """Runs a test in a hosting of its own, and sees that it leaves no process behind."""

    async def in_hosting(test: Test) -> None:
        hosting = Hosting(platform, servers)
        async with hosting.running():
            await test(hosting)

    def run(test: Test) -> None:
        asyncio.run(in_hosting(test))
        assert servers.started
        assert not [server for server in servers.started if server.poll() is None]

    return run


def test_a_hundred_first_requests_start_one_server(run: Callable[[Test], None], servers: ServerSpawner) -> None:
    async def test(hosting: Hosting) -> None:
        texts = await asyncio.gather(*(answer(hosting, PLAIN) for _ in range(100)))
        assert len(set(texts)) == 1
        assert [server.pid for server in servers.started] == [hosting.servers()[BASE].pid]

    run(test)


def test_adapters_are_loaded_when_asked_for_and_the_least_recently_used_goes(
    run: Callable[[Test], None], platform: Platform, tiny_model: BaseModelRef
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

    run(test)


def test_what_is_released_is_gone_unless_it_is_in_use_and_back_when_it_is_asked(
    run: Callable[[Test], None], platform: Platform, tiny_model: BaseModelRef
) -> None:
    model = tuned(add_tuned(platform, tiny_model))

    async def test(hosting: Hosting) -> None:
        assert await hosting.release(PLAIN)
        async with hosting.hosted(model) as hosted:
            before = await ask(hosting, hosted)
            assert not await hosting.release(model)
            assert not await hosting.release(PLAIN)
        server = hosting.servers()[BASE]
        assert await hosting.release(model)
        assert (list(server.adapters), hosting.servers()) == ([], {BASE: server})
        assert await answer(hosting, model) == before
        assert await hosting.release(PLAIN)
        assert hosting.servers() == {}
        assert await answer(hosting, model) == before

    run(test)


def test_an_adapter_in_use_is_not_unloaded(
    run: Callable[[Test], None], platform: Platform, tiny_model: BaseModelRef
) -> None:
    names = [add_tuned(platform, tiny_model, seed=seed) for seed in (1, 2, 3)]

    async def test(hosting: Hosting) -> None:
        async with hosting.hosted(tuned(names[0])) as one, hosting.hosted(tuned(names[1])) as two:
            before = [await ask(hosting, one), await ask(hosting, two)]
            await answer(hosting, tuned(names[2]))
            assert [await ask(hosting, one), await ask(hosting, two)] == before

    run(test)


def test_a_killed_server_is_started_again_by_the_next_request(
    run: Callable[[Test], None], platform: Platform, tiny_model: BaseModelRef
) -> None:
    model = tuned(add_tuned(platform, tiny_model))

    async def test(hosting: Hosting) -> None:
        before = await answer(hosting, model)
        killed = hosting.servers()[BASE]
        os.kill(killed.pid, signal.SIGKILL)
        assert await killed.has_died()
        assert await answer(hosting, model) == before
        assert hosting.servers()[BASE].pid != killed.pid

    run(test)


@pytest.mark.parametrize("platform", [{"idle_seconds": 0.5}], indirect=True)
def test_an_idle_server_is_stopped_and_comes_back(run: Callable[[Test], None]) -> None:
    async def test(hosting: Hosting) -> None:
        async with hosting.hosted(PLAIN) as hosted:
            await asyncio.sleep(1.5)
            before = await ask(hosting, hosted)
        assert await hosted.server.has_died()
        assert hosting.servers() == {}
        assert await answer(hosting, PLAIN) == before

    run(test)


async def begun(servers: ServerSpawner) -> Forked:
    """The first server, as soon as it is there."""
    while not servers.started:
        await asyncio.sleep(0.01)
    return servers.started[0]


def test_a_request_that_leaves_does_not_end_the_start(run: Callable[[Test], None], servers: ServerSpawner) -> None:
    servers.first_signal = signal.SIGSTOP

    async def test(hosting: Hosting) -> None:
        leaving = asyncio.create_task(answer(hosting, PLAIN))
        server = await begun(servers)
        leaving.cancel()
        server.send_signal(signal.SIGCONT)
        await answer(hosting, PLAIN)
        assert hosting.servers()[BASE].pid == server.pid

    run(test)


def test_ending_during_a_start_leaves_no_process(run: Callable[[Test], None], servers: ServerSpawner) -> None:
    servers.first_signal = signal.SIGSTOP

    async def test(hosting: Hosting) -> None:
        leaving = asyncio.create_task(answer(hosting, PLAIN))
        await begun(servers)
        leaving.cancel()

    run(test)


def test_a_model_whose_files_are_gone_says_which_and_what_to_do(
    run: Callable[[Test], None], platform: Platform, tiny_model: BaseModelRef
) -> None:
    model = add_tuned(platform, tiny_model)
    (platform.settings.state_dir / model.adapter / "adapter_model.safetensors").unlink()

    async def test(hosting: Hosting) -> None:
        await answer(hosting, PLAIN)
        with pytest.raises(RequestError, match=r"adapter_model\.safetensors is not in runs/.*tune it again") as caught:
            await answer(hosting, tuned(model))
        assert caught.value.code == "model_unavailable"

    run(test)


def test_a_damaged_adapter_is_refused_in_the_servers_words(
    run: Callable[[Test], None], platform: Platform, tiny_model: BaseModelRef
) -> None:
    model = add_tuned(platform, tiny_model)
    (platform.settings.state_dir / model.adapter / "adapter_model.safetensors").write_bytes(b"{}")

    async def test(hosting: Hosting) -> None:
        with pytest.raises(RequestError, match=r"adapter_model\.safetensors cannot be read") as caught:
            await answer(hosting, tuned(model))
        assert caught.value.code == "model_unavailable"

    run(test)


def test_all_who_wait_for_a_server_that_cannot_start_share_its_failure(
    run: Callable[[Test], None], platform: Platform, tmp_path: Path
) -> None:
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

    run(test)


def test_names_of_both_dialects_and_ids_mean_the_model(platform: Platform, tiny_model: BaseModelRef) -> None:
    model = add_tuned(platform, tiny_model)
    caller = Caller(organization="o", project=PROJECT, role="admin")
    for name in (model.name, model.azure_name, model.id):
        assert find_model(platform, caller, name) == Resolved(BASE, model)
    with pytest.raises(RequestError, match="does not exist") as caught:
        find_model(platform, Caller(organization="o", project="other", role="admin"), model.name)
    assert caught.value.code == "model_not_found"
