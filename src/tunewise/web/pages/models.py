"""Models: base models and what they need, tuned models, deployments, and what is loaded now."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import quote

import psutil
from markupsafe import Markup
from nicegui import context, ui

from tunewise import planning
from tunewise.catalogue import Listing
from tunewise.contracts.jobs import Deployment, TunedModel
from tunewise.jobs import condition, deployments
from tunewise.jobs.hosting import find_model
from tunewise.jobs.inventory import Inventory, inventory, own_names
from tunewise.jobs.names import short_name
from tunewise.machine import Machine
from tunewise.web.parts import badge, button, card, code, confirm, link, live, markup, table
from tunewise.web.visit import Visit
from tunewise.web.words import number, size, t, when

LOOK_SECONDS = 2.0
MEMORY_STEP = 16 * 1024**2
# Of the machine's memory, what a training may take and leave room for the server and the system.
USABLE_SHARE = 0.8


class Loaded(NamedTuple):
    """A base model that is up: the caller's adapters on it by name, how many are others', and what it takes."""

    base: str
    adapters: tuple[str, ...]
    others: int
    under_way: int
    memory_bytes: int


async def draw(visit: Visit) -> None:
    """All of it; what is loaded is looked at every two seconds."""
    found = await visit.ask(inventory)
    machine = await visit.ask(condition.machine)
    with card(t("Loaded now")):
        await live(LOOK_SECONDS, lambda: look(visit), lambda up: _loaded(visit, up))
    with card(t("Base models")):
        _bases(visit, found.bases, machine)
    with card(t("Tuned models")):
        _tuned(found)
    with card(t("Deployments")):
        _deployments(visit, found)


async def look(visit: Visit) -> list[Loaded]:
    """What is up now, as far as the visitor may see it."""
    servers = visit.studio.hosting.servers()
    if not servers:
        return []
    own = await visit.ask(own_names, [name for server in servers.values() for name in server.adapters])
    pids = {base: server.pid for base, server in servers.items()}
    memory = await asyncio.to_thread(lambda: {base: _memory(pid) for base, pid in pids.items()})
    return [
        Loaded(
            base,
            tuple(sorted(own.intersection(server.adapters))),
            len(set(server.adapters) - own),
            server.under_way,
            memory[base],
        )
        for base, server in servers.items()
    ]


async def load(visit: Visit, name: str) -> None:
    """Host a model, and say when it is up."""
    ui.notify(t("Loading {name}; this takes some seconds.", name=name))
    resolved = await visit.ask(find_model, name)
    async with visit.studio.hosting.hosted(resolved):
        pass
    ui.notify(t("{name} is loaded.", name=name), type="positive")


async def unload(visit: Visit, name: str) -> None:
    """Let a model go, unless it is being asked something."""
    resolved = await visit.ask(find_model, name)
    with context.client:  # the list that the button stands in is drawn anew meanwhile
        if await visit.studio.hosting.release(resolved):
            ui.notify(t("{name} is unloaded. It is loaded again when it is next asked.", name=name))
        else:
            ui.notify(t("{name} is answering right now; try again in a moment.", name=name), type="warning")


async def undeploy(visit: Visit, one: Deployment) -> None:
    """Take a deployment away, once the visitor agrees."""
    question = t("Requests to {name} will be refused from now on. The model itself stays.", name=one.name)
    if await confirm(question, t("Undeploy")):
        await visit.ask(deployments.delete, one.scope, one.name)
        ui.navigate.reload()


def model_path(model: TunedModel) -> str:
    """The model's own page."""
    return f"/models/{model.id}"


def chat_path(name: str) -> str:
    """The playground with this model."""
    return f"/playground?model={quote(name, safe='')}"


def deployment_state(visit: Visit, one: Deployment) -> Markup:
    """Whether it can be asked."""
    match visit.studio.provisioner.state(one):
        case "Creating":
            return badge(t("Loading"), "busy")
        case "Failed":
            return badge(t("Failed"), "bad")
        case "Succeeded":
            return badge(t("Ready"), "good")


def _loaded(visit: Visit, up: list[Loaded]) -> None:
    if not up:
        markup('<p class="tw-quiet">{}</p>', t("Nothing. A model is loaded when it is first asked, or here."))
    with ui.element("ul").classes("tw-items"):
        for one in up:
            words = [size(one.memory_bytes)]
            if one.under_way:
                words.append(t("{count} requests under way", count=one.under_way))
            if one.others:
                words.append(t("{count} tuned models of other projects", count=one.others))
            _item(Markup("<b>{}</b> · {}").format(one.base, " · ".join(words)), t("Unload"), unload, visit, one.base)
            for name in one.adapters:
                _item(Markup("{} {}").format(t("on it:"), code(name)), t("Unload"), unload, visit, name)


def _item(text: Markup, action: str, act: Callable[[Visit, str], Awaitable[None]], visit: Visit, name: str) -> None:
    with ui.element("li").classes("tw-item"):
        markup("{}", text)
        button(action, lambda: act(visit, name)).props(f'aria-label="{action} {name}"')


def _bases(visit: Visit, bases: tuple[Listing, ...], machine: Machine) -> None:
    with ui.element("ul").classes("tw-items"):
        for one in bases:
            with ui.element("li").classes("tw-item"):
                markup("<div><b>{}</b> {}<p class='tw-quiet'>{}</p></div>", one.name, _fit(one, machine), one.about)
                if one.state != "absent":
                    markup('<a class="tw-button" href="{}">{}</a>', chat_path(one.name), t("Chat"))
                    button(t("Load"), lambda name=one.name: load(visit, name)).props(
                        f'aria-label="{t("Load")} {one.name}"'
                    )
    markup(
        '<p class="tw-quiet">{}</p>',
        t("More come with: tunewise models pull NAME, where NAME is a model of the hub, a directory or a GGUF file."),
    )


def _fit(one: Listing, machine: Machine) -> Markup:
    if one.state == "absent":
        return badge(t("Not installed"), "warn")
    need = planning.peak_memory(one.parameters, "bfloat16" if machine.bfloat16 else "float32")
    millions = t("{count} million parameters", count=number(one.parameters / 1e6))
    needs = t("tuning needs about {need} of {all}", need=size(need), all=size(machine.memory_bytes))
    fits = need < USABLE_SHARE * machine.memory_bytes
    word = badge(t("Fits this machine"), "good") if fits else badge(t("Too large to tune here"), "bad")
    return Markup("{} <span class='tw-quiet'>{} · {}</span>").format(word, millions, needs)


def _tuned(found: Inventory) -> None:
    if not found.tuned:
        markup('<p class="tw-quiet">{}</p>', t("None yet. Every run that succeeds leaves one, and its checkpoints."))
        return
    deployed = {one.model for one in found.deployments}
    rows = [
        (
            link(model_path(model), short_name(model)),
            model.base,
            t("Model") if model.is_final else t("Checkpoint"),
            number(model.step),
            link(f"/runs/{model.job_id}", model.job_id[-8:]),
            badge(t("Deployed"), "good") if model.name in deployed else "",
            when(model.created_at),
        )
        for model in found.tuned
    ]
    headers = [t("Name"), t("Base model"), t("Kind"), t("Step"), t("Run"), t("Deployment"), t("Created")]
    markup("{}", table(headers, rows, caption=t("Tuned models"), numeric=[3]))


def _deployments(visit: Visit, found: Inventory) -> None:
    if not found.deployments:
        markup('<p class="tw-quiet">{}</p>', t("None. The page of a tuned model deploys it under a name of yours."))
    paths = {model.name: model_path(model) for model in found.tuned}
    with ui.element("ul").classes("tw-items"):
        for one in found.deployments:
            target = link(paths[one.model], one.model) if one.model in paths else Markup("{}").format(one.model)
            with ui.element("li").classes("tw-item"):
                markup("<div><b>{}</b> {}<br>{}</div>", one.name, deployment_state(visit, one), target)
                markup('<a class="tw-button" href="{}">{}</a>', chat_path(one.name), t("Chat"))
                button(t("Undeploy"), lambda one=one: undeploy(visit, one), kind="danger").props(
                    f'aria-label="{t("Undeploy")} {one.name}"'
                )


def _memory(pid: int) -> int:
    """Of a process, in steps that leave out what changes all the time."""
    try:
        return int(psutil.Process(pid).memory_info().rss) // MEMORY_STEP * MEMORY_STEP
    except psutil.NoSuchProcess:
        return 0
