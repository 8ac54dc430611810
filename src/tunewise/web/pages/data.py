"""Data: bring a file, and the files that there are."""

import asyncio
from collections.abc import Sequence

from markupsafe import Markup
from nicegui import events, ui
from nicegui.elements.upload_files import FileUpload

from tunewise.contracts.jobs import Purpose, StoredFile
from tunewise.jobs import datasets, files
from tunewise.jobs.incoming import Receiver
from tunewise.web.parts import button, card, empty, link, markup, table
from tunewise.web.visit import Visit
from tunewise.web.words import size, t, when

FILES = 200
CHUNK_BYTES = 1024 * 1024
MEGABYTE = 1024 * 1024


async def draw(visit: Visit) -> None:
    """The place to drop a file, and the list."""
    with card(t("Bring a file")):
        markup(
            "<p>{}</p>",
            t(
                "Conversations, questions with answers, or a table: a spreadsheet (.xlsx, .ods), CSV, TSV, JSON, JSONL "
                "or Parquet. The file is kept as it is; what is made of it is a file of its own."
            ),
        )
        _upload(visit)
    page = await visit.ask(files.list_files, purpose=None, after=None, limit=FILES, order="desc")
    if not page.items:
        empty(t("There is no file yet"), t("A good beginning: 50 to 100 examples of exactly what the model is to do."))
        return
    with card(t("Files")):
        markup("{}", _list(page.items))


def _upload(visit: Visit) -> None:
    limit = visit.platform.settings.max_upload_mb

    async def arrived(event: events.UploadEventArguments) -> None:
        file = await _keep(visit, event.file)
        ui.navigate.to(f"/data/{file.id}")

    def refused() -> None:
        ui.notify(t("Files may have up to {limit} MB here.", limit=limit), type="negative")

    upload = ui.upload(auto_upload=True, max_file_size=limit * MEGABYTE, on_upload=arrived, on_rejected=refused)
    upload.props("flat").classes("tw-upload")
    # The library's file field: without it in the header, there is none.
    field = Markup("<label>{}<q-uploader-add-trigger /></label>").format(t("Drop a file here"))
    upload.add_slot("header", field)
    choose = button(t("Choose a file"), None, kind="first")
    # In the browser at once: it opens its dialog only where a person has just clicked.
    choose.on("click", js_handler="() => document.querySelector('.tw-upload input').click()")


async def _keep(visit: Visit, brought: FileUpload) -> StoredFile:
    """The browser's file as a stored one, piece by piece and off the event loop."""
    receiver = await asyncio.to_thread(Receiver, visit.platform, brought.name)
    try:
        async for piece in brought.iterate(chunk_size=CHUNK_BYTES):
            await asyncio.to_thread(receiver.write, piece)
        incoming = await asyncio.to_thread(receiver.finish)
        return await visit.ask(datasets.keep, incoming)
    finally:
        await asyncio.to_thread(receiver.discard)


def _list(found: Sequence[StoredFile]) -> str:
    purposes: dict[Purpose, str] = {
        "fine-tune": t("rows to train on or to test with"),
        "user_data": t("brought, not converted yet"),
        "fine-tune-results": t("result of a run"),
    }
    rows = [
        [
            link(f"/data/{file.id}", file.filename),
            purposes.get(file.purpose, file.purpose),
            size(file.bytes),
            when(file.created_at),
        ]
        for file in found
    ]
    headers = [t("File"), t("What it is"), t("Size"), t("Created")]
    return table(headers, rows, caption=t("Files"), numeric=(2,))
