"""Settings: keys, aliases, the machine, storage, versions."""

from typing import get_args

from markupsafe import Markup
from nicegui import ui

from tunewise.contracts.jobs import ApiKey, Caller, Role
from tunewise.errors import RequestError
from tunewise.jobs import condition, keyring
from tunewise.jobs.access import NewKey
from tunewise.jobs.condition import Kind, Storage
from tunewise.jobs.platform import Platform
from tunewise.machine import Machine
from tunewise.web.parts import badge, bar, button, card, code, confirm, copy_button, facts, markup, select_field, table
from tunewise.web.visit import Visit
from tunewise.web.words import number, size, t, when

ROLES: tuple[Role, ...] = get_args(Role)


async def draw(visit: Visit) -> None:
    """A card for each; what only admins may see says so to members."""
    caller = await visit.ask(_caller)
    with card(t("API keys")):
        if caller.role == "admin":
            _keys(visit, caller, await visit.ask(keyring.list_keys))
        else:
            markup("<p>{}</p>", t("Only admins see and make keys. Ask one for a key of your own."))
    with card(t("Aliases")):
        markup("{}", _aliases(visit.platform.settings.aliases))
    with card(t("This machine")):
        markup("{}", facts(_machine(await visit.ask(condition.machine))))
    if caller.role == "admin":
        with card(t("Storage")):
            _storage(visit)
    with card(t("Versions")):
        versions = await visit.ask(condition.versions)
        markup("{}", facts([(name, version) for name, version in versions.items()]))


def _caller(_platform: Platform, caller: Caller) -> Caller:
    return caller


def _keys(visit: Visit, caller: Caller, keys: list[ApiKey]) -> None:
    in_use = [key for key in keys if key.revoked_at is None]
    if not keys:
        markup(
            "<p>{}</p>",
            t(
                "There is no key yet: everybody on this machine is let in as an admin. From the first key on, every "
                "program and every visitor needs one, so the first is an admin's."
            ),
        )
    with ui.element("ul").classes("tw-items"):
        for key in in_use:
            with ui.element("li").classes("tw-item"):
                markup("<div>{}</div>", _key(key))
                button(t("Revoke"), lambda key=key: _revoke(visit, key), kind="danger").props(
                    f'aria-label="{t("Revoke")} {key.hint}"'
                )
    ended = [(code(key.hint), key.project, when(key.revoked_at)) for key in keys if key.revoked_at is not None]
    if ended:
        markup(
            "<h3>{}</h3>{}", t("Revoked"), table([t("Key"), t("Project"), t("Revoked")], ended, caption=t("Revoked"))
        )
    _new_key(visit, caller, is_first=not keys)


def _key(key: ApiKey) -> Markup:
    role = badge(t("admin"), "warn") if key.role == "admin" else badge(t("member"))
    made = t("{project}, made {when}", project=key.project, when=when(key.created_at))
    return Markup("{}… {} <span class='tw-quiet'>{}</span>").format(code(key.hint), role, made)


def _new_key(visit: Visit, caller: Caller, *, is_first: bool) -> None:
    roles = {"member": t("Member: uses the project"), "admin": t("Admin: makes keys, too")}
    with ui.element("div").classes("tw-line"):
        project = ui.input(t("Project"), value=caller.project).props("maxlength=128")
        role = select_field(t("Role"), roles, "admin" if is_first else "member")
        role.set_enabled(not is_first)

        async def create() -> None:
            wanted = ROLES[ROLES.index(role.value)]
            made = await visit.ask(keyring.create, role=wanted, project=(project.value or "").strip())
            _show_once(made, is_first=is_first)

        button(t("Create a key"), create)


def _show_once(made: NewKey, *, is_first: bool) -> None:
    """The key's secret, which nothing here will know again."""
    with ui.dialog().props("persistent") as dialog, ui.card().classes("tw-dialog"):
        dialog.props["aria-label"] = t("The new key")
        markup("<h2>{}</h2><p>{}</p>", t("The new key"), t("Copy it now: it is shown this once and kept nowhere."))
        markup('<p class="tw-secret">{}</p>', code(made.secret))
        if is_first:
            markup("<p>{}</p>", t("From now on every visitor needs a key. Sign in with this one to go on."))
        with ui.element("div").classes("tw-actions"):
            copy_button(t("Copy"), made.secret)
            button(t("Done"), lambda: ui.navigate.to("/sign-in?to=/settings" if is_first else "/settings"))
    dialog.open()


async def _revoke(visit: Visit, key: ApiKey) -> None:
    question = t(
        "Whoever uses the key {hint}… is refused from now on. A revoked key cannot be had back.", hint=key.hint
    )
    if await confirm(question, t("Revoke")):
        await visit.ask(keyring.revoke, key.id)
        ui.navigate.reload()


def _aliases(aliases: dict[str, str]) -> Markup:
    how = Markup('<p class="tw-quiet">{}</p>').format(
        t("Set with the option --alias NAME=MODEL of tunewise up, or in TUNEWISE_ALIASES.")
    )
    if not aliases:
        return Markup("<p>{}</p>{}").format(t("There are none: models answer to their own names."), how)
    rows = [(code(name), code(model)) for name, model in aliases.items()]
    return Markup("{}{}").format(table([t("Alias"), t("Stands for")], rows, caption=t("Aliases")), how)


def _machine(machine: Machine) -> list[tuple[str, str | Markup]]:
    formats = "float32, bfloat16" if machine.bfloat16 else "float32"
    return [
        (t("Processor"), machine.name),
        (t("Cores"), number(machine.cores)),
        (t("Memory"), size(machine.memory_bytes)),
        (t("Number formats that are computed fast"), formats),
        (t("Speed of matrix products"), f"{number(machine.gflops)} GFLOP/s"),
    ]


def _storage(visit: Visit) -> None:
    """Measured after the page is there: it looks at every file."""
    shown = markup('<p class="tw-quiet">{}</p>', t("Counting…"))

    async def count() -> None:
        try:
            found = await visit.ask(condition.storage)
        except RequestError as error:
            shown.set_content(Markup("<p>{}</p>").format(error.message))
        else:
            shown.set_content(_storage_facts(found))

    ui.timer(0.05, count, once=True)


def _storage_facts(found: Storage) -> Markup:
    words: dict[Kind, str] = {
        "files": t("Files"),
        "uploads": t("Unfinished uploads"),
        "runs": t("Runs and their weights"),
        "models": t("Base models"),
        "cache": t("Cache; can be deleted"),
        "database": t("Database"),
    }
    disk = found.disk
    left = t("{free} of the disk's {total} are free", free=size(disk.free), total=size(disk.total))
    tone = Markup(' class="tw-bad-text"') if disk.is_scarce else Markup("")
    kinds: list[tuple[str, str | Markup]] = [(words[kind], size(bytes_)) for kind, bytes_ in found.kinds.items()]
    return Markup("{}<p{}>{}</p>{}").format(facts(kinds), tone, left, bar(1 - disk.free / disk.total, left))
