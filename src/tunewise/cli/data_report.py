"""A check report on a terminal: findings first, then the facts, then what the model will see. Knows only the report."""

from collections import Counter
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tunewise.contracts.check import CheckReport, Distribution, FileReport, Finding, InspectedRow, Severity

SHOWN = 20
INSPECTED_CHARS = 700
STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "cyan"}
BARS = " ▁▂▃▄▅▆▇█"


def print_report(report: CheckReport, console: Console) -> None:
    """Print everything that a person wants to read."""
    for part in (findings_part, facts_part, plan_part, inspector_part):
        rendered = part(report)
        if rendered is not None:
            console.print(rendered)
            console.print()
    console.print(verdict(report))


def verdict(report: CheckReport) -> Text:
    """The last line: whether a job could start."""
    counts = Counter(finding.severity for finding in report.findings)
    if counts["error"]:
        return Text(f"✗ {_plural(counts['error'], 'error')}: a job on these files would be refused.", STYLES["error"])
    if counts["warning"]:
        return Text(f"✓ No errors; {_plural(counts['warning'], 'warning')} to look at.", STYLES["warning"])
    return Text("✓ No errors and no warnings.", "bold green")


def findings_part(report: CheckReport) -> RenderableType | None:
    """The first twenty findings, and how many there are of each kind."""
    return Group(findings_table(report.findings), Text(), _summary(report)) if report.findings else None


def findings_table(findings: Sequence[Finding]) -> RenderableType:
    """The first twenty findings."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Where", no_wrap=True)
    table.add_column("Field")
    table.add_column("Problem", ratio=3)
    table.add_column("What to do", ratio=2)
    for finding in findings[:SHOWN]:
        table.add_row(_place(finding), Text(finding.param or ""), _problem(finding), Text(finding.remedy))
    parts: list[RenderableType] = [table]
    if len(findings) > SHOWN:
        parts += [Text(f"… and {len(findings) - SHOWN:,} more; --json lists all.", "dim")]
    return Group(*parts)


def _place(finding: Finding) -> Text:
    return Text(finding.file if finding.line is None else f"{finding.file}:{finding.line}", STYLES[finding.severity])


def _problem(finding: Finding) -> Text:
    text = Text.assemble((finding.code, STYLES[finding.severity]), "  ", finding.message)
    shown = finding.value is not None and finding.value not in finding.message
    return Text.assemble(text, "\n", (f"{finding.value}", "dim")) if shown else text


def _summary(report: CheckReport) -> RenderableType:
    counts = Counter((finding.severity, finding.code) for finding in report.findings)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(justify="right")
    order: list[Severity] = ["error", "warning", "note"]
    for (severity, code), count in sorted(counts.items(), key=lambda item: (order.index(item[0][0]), -item[1])):
        table.add_row(f"{count:,}", Text(severity, STYLES[severity]), code)
    return table


def facts_part(report: CheckReport) -> RenderableType | None:
    """One column per file."""
    if not report.files:
        return None
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("")
    for file in report.files:
        table.add_column(f"{file.path.name}\n({file.split})", justify="right")
    for name, fact in FACTS:
        values = [fact(file) for file in report.files]
        if any(values):
            table.add_row(name, *values)
    return table


def _spread(pick: Callable[[FileReport], Distribution | None]) -> Callable[[FileReport], str]:
    def fact(file: FileReport) -> str:
        d = pick(file)
        return "" if d is None else f"{d.minimum:,} · {d.median:,.0f} · {d.maximum:,}"

    return fact


def _share_trained(file: FileReport) -> str:
    tokens, trained = file.tokens_per_row, file.trained_tokens_per_row
    return "" if tokens is None or trained is None else f"{trained.total:,} ({trained.total / tokens.total:.0%})"


def _total_tokens(file: FileReport) -> str:
    return "" if file.tokens_per_row is None else f"{file.tokens_per_row.total:,}"


def _roles(file: FileReport) -> str:
    return "\n".join(f"{role} {count:,}" for role, count in file.roles.items())


def sparkline(histogram: tuple[int, ...]) -> str:
    """Twenty bars, the tallest full; a bin that holds anything shows."""
    most = max(histogram)
    return "".join(BARS[-(-count * 8 // most)] for count in histogram)


def _shape(file: FileReport) -> str:
    return "" if file.tokens_per_row is None else sparkline(file.tokens_per_row.histogram)


def _count(number: int) -> str:
    return f"{number:,}"


FACTS: tuple[tuple[str, Callable[[FileReport], str]], ...] = (
    ("rows", lambda file: f"{file.rows:,} of {file.lines:,} lines" if file.rows != file.lines else f"{file.rows:,}"),
    ("size", lambda file: f"{file.bytes / 1e6:,.1f} MB" if file.bytes >= 1e6 else f"{file.bytes / 1e3:,.1f} kB"),
    ("format", lambda file: file.format or ""),
    ("messages by role", _roles),
    ("messages per row (min · median · max)", _spread(lambda file: file.messages_per_row)),
    ("tokens", _total_tokens),
    ("tokens trained on", _share_trained),
    ("tokens per row (min · median · max)", _spread(lambda file: file.tokens_per_row)),
    ("distribution", _shape),
    ("trained tokens per row (min · median · max)", _spread(lambda file: file.trained_tokens_per_row)),
    ("over-long rows", lambda file: "" if file.tokens_per_row is None else _count(file.overlong_rows)),
    ("rows with nothing to train on", lambda file: _count(file.nothing_to_train_on)),
    ("rows with a weight of their own", lambda file: _count(file.weighted_rows) if file.weighted_rows else ""),
    ("exact duplicates", lambda file: _count(file.exact_duplicates)),
    ("near duplicates", lambda file: _count(file.near_duplicates)),
    ("sha256", lambda file: file.sha256[:12]),
)


def plan_part(report: CheckReport) -> RenderableType | None:
    """What "auto" would become and what the job would take."""
    if report.hyperparameters is None or report.estimate is None:
        return None
    estimate = report.estimate
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    settings = ", ".join(f"{name} {value}" for name, value in report.hyperparameters.items())
    table.add_row("A job would use", settings)
    table.add_row(
        "and take about",
        f"{_duration(estimate.seconds)}, {estimate.memory_bytes / 1e9:.1f} GB of memory; "
        f"{estimate.steps:,} steps, {estimate.billed_tokens:,} tokens" + _cost(estimate.cost),
    )
    table.add_row("", Text(f"({estimate.basis})", "dim"))
    return table


def _cost(cost: float | None) -> str:
    return "" if cost is None else f", cost {cost:.2f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def inspector_part(report: CheckReport) -> RenderableType | None:
    """Three rows as the model will see them, what is trained on between ⟦ and ⟧."""
    if not report.inspected:
        return None
    head = Text.assemble("What the model will see; it is trained on what stands between ", ("⟦ ⟧", "green"))
    rows = [
        Group(Text(f"{row.file}:{row.line}", "bold"), Padding(_inspected(row), (0, 0, 0, 2)))
        for row in report.inspected
    ]
    return Group(head, *rows)


def _inspected(row: InspectedRow) -> Text:
    """The row's text; long stretches that are not trained on are shortened in the middle."""
    text = Text()
    for trained, stretch in _stretches(row):
        if trained:
            text.append(f"⟦{_middle_cut(stretch)}⟧", "green")
        else:
            text.append(_middle_cut(stretch), "dim")
    return text


def _stretches(row: InspectedRow) -> list[tuple[bool, str]]:
    found: list[tuple[bool, str]] = []
    for token in row.tokens:
        if found and found[-1][0] == token.trained:
            found[-1] = (token.trained, found[-1][1] + token.text)
        else:
            found.append((token.trained, token.text))
    return found


def _middle_cut(text: str) -> str:
    half = INSPECTED_CHARS // 2
    return text if len(text) <= INSPECTED_CHARS else f"{text[:half]} … {text[-half:]}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
