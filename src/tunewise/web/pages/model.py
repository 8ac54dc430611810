"""One tuned model: where it comes from, what hangs on it, and what can be done with it."""

from typing import assert_never

from markupsafe import Markup
from nicegui import ui

from tunewise.contracts.jobs import StoredFile
from tunewise.jobs import deployments, exports, models
from tunewise.jobs.deployments import Wanted
from tunewise.jobs.hosting import find_model
from tunewise.jobs.inventory import Lineage, lineage
from tunewise.jobs.names import short_name
from tunewise.web.pages.models import chat_path, deployment_state, load, model_path, undeploy, unload
from tunewise.web.parts import button, card, code, confirm, download, facts, link, markup
from tunewise.web.states import name_of, status_badge
from tunewise.web.visit import Visit
from tunewise.web.words import number, size, t, when

# Azure's accounts have three names; deployments that were made here have these.
SCOPE = "studio/studio/studio"


async def draw(visit: Visit) -> None:
    """The story, the actions, the numbers."""
    found = await visit.ask(lineage, visit.part("name"))
    markup('<p><a href="/models">{}</a></p><p class="tw-name">{}</p>', t("All models"), code(found.model.name))
    _actions(visit, found)
    with card(t("Where it comes from")):
        markup("{}", _path(visit, found))
    with card(t("Deploy")):
        _deploy(visit, found)
    with card(t("Export")):
        markup("{}", _exports(found))
    with card(t("Numbers")):
        markup("{}", facts(_numbers(found)))


def _actions(visit: Visit, found: Lineage) -> None:
    name = found.model.name
    with ui.element("div").classes("tw-actions"):
        markup('<a class="tw-button tw-first" href="{}">{}</a>', chat_path(name), t("Chat"))
        button(t("Load"), lambda: load(visit, name))
        button(t("Unload"), lambda: unload(visit, name))
        if found.is_own:
            button(t("Delete"), lambda: _delete(visit, found), kind="danger")


async def _delete(visit: Visit, found: Lineage) -> None:
    if not await confirm(_what_goes(found), t("Delete")):
        return
    await visit.ask(models.delete, found.model.name)
    ui.navigate.to("/models")


def _what_goes(found: Lineage) -> str:
    said = [
        t(
            "Delete {name} for good? Its weights ({size}) go with it, and requests to it will be refused.",
            name=short_name(found.model),
            size=size(found.adapter_bytes),
        )
    ]
    if found.shared_with:
        said.append(t("{count} other projects use it and lose it too.", count=found.shared_with))
    if found.usage["requests"]:
        said.append(t("It has answered {count} requests so far.", count=number(found.usage["requests"])))
    said.append(t("The run, its data and its other checkpoints stay."))
    return " ".join(said)


def _path(visit: Visit, found: Lineage) -> Markup:
    """Data → run → checkpoint → model → deployment, each a link where it is still there."""
    model = found.model
    steps = [(t("Data"), _data(found)), (t("Base model"), Markup("{}").format(model.base))]
    if found.job is None:
        steps.append((t("Run"), Markup("{}").format(t("of another project"))))
    else:
        parent = found.job.request.parent
        if parent:
            steps.append((t("Tuned further from"), link(f"/models/{parent}", parent)))
        status = status_badge(found.job.status)
        steps.append((t("Run"), Markup("{} {}").format(link(f"/runs/{found.job.id}", name_of(found.job)), status)))
    before = [link(model_path(one), t("step {step}", step=one.step)) for one in found.siblings if not one.is_final]
    if before:
        steps.append((t("Checkpoints") if model.is_final else t("Other checkpoints"), Markup(" · ").join(before)))
    kind = t("This model") if model.is_final else t("This checkpoint")
    steps.append((kind, Markup("{} · {}").format(code(model.name), t("step {step}", step=model.step))))
    final = next((one for one in found.siblings if one.is_final), None)
    if final:
        steps.append((t("The run's model"), link(model_path(final), final.name)))
    deployed = [
        Markup("{} {}").format(link(chat_path(one.name), one.name), deployment_state(visit, one))
        for one in found.deployments
    ]
    steps.append((t("Deployments"), Markup(" · ").join(deployed) if deployed else Markup("{}").format(t("none"))))
    return Markup('<ol class="tw-path">{}</ol>').format(
        Markup().join(Markup("<li><b>{}</b>{}</li>").format(name, what) for name, what in steps)
    )


def _data(found: Lineage) -> Markup:
    files = [file for file in (found.training_file, found.validation_file) if file is not None]
    if not files:
        return Markup("{}").format(t("deleted, or of another project"))
    return Markup(" · ").join(_file(file) for file in files)


def _file(file: StoredFile) -> Markup:
    return Markup("{} ({})").format(link(f"/data/{file.id}", file.filename), size(file.bytes))


def _deploy(visit: Visit, found: Lineage) -> None:
    for one in found.deployments:
        with ui.element("div").classes("tw-item"):
            markup("<div><b>{}</b> {}</div>", one.name, deployment_state(visit, one))
            button(t("Undeploy"), lambda one=one: undeploy(visit, one), kind="danger").props(
                f'aria-label="{t("Undeploy")} {one.name}"'
            )
    markup(
        '<p class="tw-quiet">{}</p>',
        t("A deployment is a name of your choice: programs ask for it, and the model behind it can be changed."),
    )
    with ui.element("div").classes("tw-line"):
        name = ui.input(t("Name of the deployment"))

        async def deploy() -> None:
            wanted = Wanted(name=(name.value or "").strip(), scope=_scope(found, name.value), model=found.model.name)
            made, _ = await visit.ask(deployments.put, wanted)
            visit.studio.provisioner.begin(made, await visit.ask(find_model, made.model))
            ui.navigate.reload()

        button(t("Deploy"), deploy)


def _scope(found: Lineage, name: str | None) -> str:
    """Where a deployment of that name is, if it is this model's; else where those of this page are."""
    return next((one.scope for one in found.deployments if one.name == name), SCOPE)


def _exports(found: Lineage) -> Markup:
    """The formats; each a link that saves a file."""
    entries = [
        Markup("<li>{} <span class='tw-quiet'>{}</span></li>").format(
            download(f"/models/{found.model.id}/export/{format_}", words[0]), words[1]
        )
        for format_, words in _formats(found).items()
    ]
    return Markup('<ul class="tw-files">{}</ul>').format(Markup().join(entries))


def _formats(found: Lineage) -> dict[exports.Format, tuple[str, str]]:
    match found.kind:
        case "adapter":
            beside = t("loads in PEFT and vLLM beside {base}", base=found.model.base)
            return {"adapter": (t("LoRA adapter (zip)"), beside)}
        case "model":
            return {"model": (t("Model (zip)"), t("loads in transformers and vLLM"))}
        case _:
            assert_never(found.kind)


def _numbers(found: Lineage) -> list[tuple[str, str | Markup]]:
    model, used = found.model, found.usage
    losses = {"train_loss": t("Training loss"), "full_valid_loss": t("Validation loss")}
    metrics = [
        (word, number(value, 3)) for key, word in losses.items() if (value := model.metrics.get(key)) is not None
    ]
    return [
        (t("Created"), when(model.created_at)),
        (t("Weights"), size(found.adapter_bytes)),
        *metrics,
        (t("Requests answered"), number(used["requests"])),
        (t("Prompt tokens"), number(used["prompt_tokens"])),
        (t("Completion tokens"), number(used["completion_tokens"])),
        (t("Azure's name"), code(model.azure_name)),
    ]
