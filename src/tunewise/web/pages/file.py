"""One file: what its columns are, where it has yet to be converted; else what was found in its rows, and remedies."""

from collections.abc import Awaitable, Callable, Sequence

from markupsafe import Markup
from nicegui import context, ui

from tunewise.catalogue import DEFAULT_MODEL
from tunewise.contracts.check import CheckReport, Distribution, FileReport, Finding, InspectedRow
from tunewise.contracts.fine_tuning import TrainingRequest
from tunewise.contracts.jobs import StoredFile
from tunewise.jobs import datasets, files, models, proposals
from tunewise.jobs.datasets import ORIGINAL, Mended
from tunewise.web.findings import name_of
from tunewise.web.importing import Importing
from tunewise.web.parts import badge, button, card, confirm, download, facts, markup, table
from tunewise.web.told import told
from tunewise.web.visit import Visit
from tunewise.web.words import number, size, t, when

SHOWN_LINES = 20
SHOWN_TOKENS = 600
MASKED_CODES = ("secret", "personal_data")


async def draw(visit: Visit) -> None:
    """What there is to know of the file now."""
    file = await visit.ask(files.retrieve, visit.part("file_id"))
    markup('<p><a href="/data">{}</a></p>', t("All files"))
    _head(visit, file)
    await context.client.connected()  # a large file takes a moment to read
    if file.purpose == ORIGINAL:
        await Importing(visit, file).draw()
    elif file.purpose == "fine-tune":
        await _Rows(visit, file).draw()


def _head(visit: Visit, file: StoredFile) -> None:
    async def delete() -> None:
        if await confirm(t("Delete {name}? Runs that used it stay.", name=file.filename), t("Delete the file")):
            await visit.ask(files.delete, file.id)
            ui.navigate.to("/data")

    with card(file.filename):
        pairs: list[tuple[str, str | Markup]] = [
            (t("Size"), size(file.bytes)),
            (t("Created"), when(file.created_at)),
            ("SHA-256", Markup("<code>{}…</code>").format(file.sha256[:16])),
            (t("Id"), Markup("<code>{}</code>").format(file.id)),
        ]
        markup("{}", facts(pairs))
        with ui.element("div").classes("tw-actions"):
            markup("{}", download(f"/data/{file.id}/content", t("Save it")))
            button(t("Delete"), delete, kind="danger")


class _Rows:
    """A file of rows: findings, remedies, tokens."""

    def __init__(self, visit: Visit, file: StoredFile) -> None:
        self._visit = visit
        self._file = file

    async def draw(self) -> None:
        """Choose the model whose tokens are counted, and all that follows."""
        names = [model.name for model in await self._visit.ask(models.list_models)]
        with card(t("Next")), ui.element("div").classes("tw-actions"):
            href = f"/runs/new?training={self._file.id}"
            markup('<a class="tw-button tw-first" href="{}">{}</a>', href, t("Train on these rows"))
        chosen = DEFAULT_MODEL if DEFAULT_MODEL in names else names[0]
        self._model = ui.select(names, value=chosen, label=t("Tokens as this model counts them"))
        self._found = ui.element("div").classes("tw-fields")
        self._model.on_value_change(self._look)
        await self._look()

    async def _look(self) -> None:
        self._found.clear()
        with self._found:
            markup('<p class="tw-quiet" role="status">{}</p>', t("Reading the rows …"))
        report = await self._visit.ask(
            proposals.propose, model=self._model.value, chosen={"train": self._file.id}, request=TrainingRequest()
        )
        self._found.clear()
        with self._found:
            self._draw_findings(report)
            for one in report.files:
                _draw_numbers(one)
            self._draw_split()
            for row in report.inspected:
                _draw_inspected(row)

    def _draw_findings(self, report: CheckReport) -> None:
        with card(t("Findings")):
            if not report.findings:
                markup("<p>{}</p>", t("No problem was found."))
            for code in dict.fromkeys(finding.code for finding in report.findings):
                self._draw_finding([finding for finding in report.findings if finding.code == code])

    def _draw_finding(self, same: Sequence[Finding]) -> None:
        """All findings of one kind: the first in words, the lines of all, and the remedy that one click gives."""
        first = same[0]
        lines = list(dict.fromkeys(finding.line for finding in same if finding.line is not None))
        shown = ", ".join(number(line) for line in lines[:SHOWN_LINES])
        more = t(" and {count} more", count=number(len(lines) - SHOWN_LINES)) if len(lines) > SHOWN_LINES else ""
        tone = {"error": "bad", "warning": "warn", "note": "neutral"}[first.severity]
        words = {"error": t("error"), "warning": t("warning"), "note": t("note")}[first.severity]
        with ui.element("article").classes("tw-finding"):
            markup(
                "<h3>{} {}</h3><p>{}; {}.</p>",
                badge(words, tone),  # type: ignore[arg-type]
                t("{count} × {what}", count=number(len(same)), what=name_of(first.code)),
                told(first.message),
                told(first.remedy),
            )
            if lines:
                place = t("Line {line}", line=shown) if len(lines) == 1 else t("Lines {lines}", lines=shown)
                markup('<p class="tw-quiet">{}{}</p>', place, more)
            if first.code in MASKED_CODES:
                button(t("Make a copy with these masked"), self._mending(self._mask))
            elif lines:
                several = t("Make a copy without these {count} lines", count=number(len(lines)))
                button(
                    t("Make a copy without this line") if len(lines) == 1 else several,
                    self._mending(lambda: self._visit.ask(datasets.drop_lines, self._file.id, lines)),
                )

    async def _mask(self) -> Mended:
        return await self._visit.ask(datasets.mask, self._file.id)

    def _mending(self, mend: Callable[[], Awaitable[Mended]]) -> Callable[[], Awaitable[None]]:
        async def mended() -> None:
            made = await mend()
            ui.navigate.to(f"/data/{made.file.id}")

        return mended

    def _draw_split(self) -> None:
        with card(t("Split off rows to validate and to test with")):
            markup("<p>{}</p>", t("Equal and nearly equal rows stay together, so that no test row is also trained on."))
            with ui.element("div").classes("tw-line"):
                valid = ui.number(t("Validation, in percent"), value=10, min=0, max=50, format="%.0f")
                test = ui.number(t("Test, in percent"), value=20, min=0, max=50, format="%.0f")

            async def split() -> None:
                held = [(valid.value or 0) / 100, (test.value or 0) / 100]
                made = await self._visit.ask(datasets.split, self._file.id, [1 - sum(held), *held])
                names = [name for name, share in zip(("validation", "test"), held, strict=True) if share]
                query = "&".join(f"{name}={file.id}" for name, file in zip(names, made[1:], strict=True))
                ui.navigate.to(f"/runs/new?training={made[0].id}&{query}")

            button(t("Split, and go on to a new run"), split)


def _draw_numbers(report: FileReport) -> None:
    with card(t("Rows and tokens")):
        pairs: list[tuple[str, str | Markup]] = [
            (t("Rows"), number(report.rows)),
            (t("Form"), report.format or "–"),
            (t("Over-long"), number(report.overlong_rows)),
            (t("Duplicates"), number(report.exact_duplicates)),
            (t("Near duplicates"), number(report.near_duplicates)),
        ]
        if report.tokens_per_row is not None:
            pairs.append((t("Tokens in all"), number(report.tokens_per_row.total)))
            pairs.append((t("Tokens a row: median, longest"), _median_and_longest(report.tokens_per_row)))
        markup("{}", facts(pairs))
        if report.tokens_per_row is not None:
            markup("<h3>{}</h3>{}", t("Rows by their number of tokens"), _histogram(report.tokens_per_row))


def _median_and_longest(found: Distribution) -> str:
    return f"{number(found.median)}, {number(found.maximum)}"


def _histogram(found: Distribution) -> Markup:
    """Twenty bars; the numbers stand in a table that opens below."""
    highest = max(found.histogram) or 1
    width = (found.maximum - found.minimum) / len(found.histogram)
    bounds = [found.minimum + width * index for index in range(len(found.histogram) + 1)]
    bars = Markup().join(
        Markup('<rect x="{}" y="{}" width="18" height="{}"/>').format(
            20 * index, f"{100 - 100 * count / highest:.1f}", f"{100 * count / highest:.1f}"
        )
        for index, count in enumerate(found.histogram)
    )
    rows = [
        [f"{number(low)}–{number(high)}", number(count)]
        for low, high, count in zip(bounds, bounds[1:], found.histogram, strict=False)
    ]
    title = t("Rows by their number of tokens")
    return Markup(
        '<svg class="tw-histogram" viewBox="0 0 400 100" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
        '<div class="tw-ends"><span>{}</span><span>{}</span></div><details><summary>{}</summary>{}</details>'
    ).format(
        title,
        bars,
        number(found.minimum),
        number(found.maximum),
        t("As numbers"),
        table([t("Tokens"), t("Rows")], rows, caption=title, numeric=(0, 1)),
    )


def _draw_inspected(row: InspectedRow) -> None:
    """A row as the model sees it; what carries loss is marked."""
    tokens = row.tokens[-SHOWN_TOKENS:]
    told = Markup().join(
        Markup("<mark>{}</mark>" if token.trained else "<span>{}</span>").format(token.text.replace("\n", "↵\n"))
        for token in tokens
    )
    with card(t("What is trained on: line {line}", line=row.line), classes="tw-report"):
        markup("<p>{}</p>", t("Marked tokens carry loss, the others are context. ↵ is a line break."))
        markup('<pre class="tokens" tabindex="0">{}</pre>', told)
