"""`check`: everything that is wrong with data files, and everything a person wants to know before paying for a job.

Puts together what the other modules of this package find. The job's hyperparameters and cost are not known here; the
caller adds them to the report.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tunewise.contracts.check import CheckReport, FileReport, Finding, InspectedRow, LeakedRow, RowFormat, Split
from tunewise.contracts.fine_tuning import LossOn, Overlong
from tunewise.data import labels, leakage
from tunewise.data.formats import detect_format
from tunewise.data.problems import Problem, finding, problem_of
from tunewise.data.scan import Frame
from tunewise.data.survey import Survey, findings_of, first_frame, survey
from tunewise.data.template import Template
from tunewise.data.tokens import TokenCounts, count_tokens, distribution, fitted_rows, inspect_rows
from tunewise.errors import DataError

# OpenAI's service refuses a job with fewer (error code invalid_n_examples).
LEAST_ROWS = 10
# Training makes the weights from the one, early stopping chooses the checkpoint by the other.
COMPARED: frozenset[tuple[Split, Split]] = frozenset({("valid", "train"), ("test", "train"), ("test", "valid")})


class Limits(NamedTuple):
    """The base model's template, the longest row in tokens, what is done with a longer one, and what carries loss.

    `context` is the base model's own, in tokens: the one limit of test rows, which are never trained on.
    """

    template: Template
    max_tokens: int
    overlong: Overlong
    context: int
    loss_on: LossOn = "assistant"


class Checked(NamedTuple):
    """One file as far as it has been looked at."""

    split: Split
    survey: Survey
    counts: TokenCounts | None


def check(files: Sequence[tuple[Split, Path]], limits: Limits | None = None) -> CheckReport:
    """Check files, each alone and held-out ones against others. Never raises for what is wrong with the data.

    Without `limits` nothing is said of tokens: no counts, no over-long rows, no label inspector.
    """
    findings: list[Finding] = []
    checked: list[Checked] = []
    frame: Frame | None = None
    for split, path in files:
        try:
            row_format = detect_format(path)
            frame = frame or first_frame(path, row_format)
            found = survey(path, row_format, frame)
        except DataError as error:
            findings.append(finding(path, None, problem_of(error)._replace(param=None)))
            continue
        except OSError as error:
            problem = Problem("error", "unreadable", f"{path}: {error.strerror}", "check the path and its permissions")
            findings.append(finding(path, None, problem))
            continue
        counts = None if limits is None else _counts(split, path, row_format, limits)
        checked.append(Checked(split, found, counts))
    reports = []
    for one in checked:
        report, problems = _file_report(one)
        reports.append(report)
        findings += problems
    leaked = _all_leaks(checked, frame or Frame("", ""))
    findings += [_leak_finding(row, held_out, other) for row, held_out, other in leaked]
    return CheckReport(
        files=tuple(reports),
        findings=tuple(sorted(findings, key=_order)),
        leakage=tuple(row for row, _, _ in leaked),
        inspected=_inspected(checked, limits),
    )


def _counts(split: Split, path: Path, row_format: RowFormat, limits: Limits) -> TokenCounts:
    template, loss_on = limits.template, limits.loss_on
    if split == "test":
        return count_tokens(path, row_format, template, limits.context, None, loss_on)
    return count_tokens(path, row_format, template, limits.max_tokens, limits.overlong, loss_on)


_SEVERITIES = {"error": 0, "warning": 1, "note": 2}


def _order(item: Finding) -> tuple[int, str, int]:
    return _SEVERITIES[item.severity], item.file, item.line or 0


def _file_report(one: Checked) -> tuple[FileReport, list[Finding]]:
    found, counts = one.survey, one.counts
    rows = len(found.fingerprints.rows)
    repeated = list(leakage.repeats(found.fingerprints))
    more = repeated + ([] if counts is None else counts.problems)
    findings = findings_of(found) + [finding(found.path, line, problem) for line, problem in more]
    # One document may be a whole book.
    if one.split == "train" and rows < (LEAST_ROWS if found.row_format != "text" else 1):
        findings.append(finding(found.path, None, _too_few(rows)))
    if one.split == "train" and found.row_format == "labelled" and rows:
        findings += [finding(found.path, None, problem) for problem in labels.problems_of(found.labels)]
    report = FileReport(
        split=one.split,
        path=found.path,
        sha256=found.sha256,
        bytes=found.bytes,
        lines=found.lines,
        rows=rows,
        format=one.survey.row_format,
        roles=dict(found.roles.most_common()),
        messages_per_row=distribution(found.lengths),
        weighted_rows=found.weighted,
        tokens_per_row=None if counts is None else distribution(counts.tokens),
        trained_tokens_per_row=None if counts is None else distribution(counts.trained),
        fitted=None if counts is None else fitted_rows(counts),
        overlong_rows=0 if counts is None else counts.overlong,
        nothing_to_train_on=_silent_rows(found) + (0 if counts is None else counts.nothing_to_train_on),
        exact_duplicates=sum(problem.code == "duplicate" for _, problem in repeated),
        near_duplicates=sum(problem.code == "near_duplicate" for _, problem in repeated),
    )
    return report, findings


def _silent_rows(found: Survey) -> int:
    return found.found["nothing_to_train_on"] + found.found["no_assistant_message"]


def _too_few(rows: int) -> Problem:
    return Problem(
        "error",
        "invalid_n_examples",
        f"{rows} usable row{'' if rows == 1 else 's'}; at least {LEAST_ROWS} are needed",
        "add rows: 50 to 100 good ones are where an effect usually shows",
        value=str(rows),
    )


def _all_leaks(checked: Sequence[Checked], frame: Frame) -> list[tuple[LeakedRow, Path, Path]]:
    """Each leaked row with its file and the other file that it stands in."""
    return [
        (row, held_out.survey.path, other.survey.path)
        for other in checked
        for held_out in checked
        if (held_out.split, other.split) in COMPARED
        for row in leakage.leaks(held_out.split, held_out.survey, other.split, other.survey, frame)
    ]


def _leak_finding(row: LeakedRow, path: Path, other: Path) -> Finding:
    how = "stands" if row.similarity == 1 else f"nearly stands (similarity {row.similarity:.2f})"
    is_trained = row.source == "train"
    return Finding(
        severity="warning",
        code="leakage",
        file=path.name,
        line=row.line,
        value=f"line {row.source_line}",
        message=f"the row {how} in the {'training' if is_trained else 'validation'} data too: {other.name}, "
        f"line {row.source_line}",
        remedy="remove it from one of the two: "
        + (
            "a score on rows that were trained on says nothing"
            if is_trained
            else "with early stopping the checkpoint is chosen by the validation rows"
        ),
    )


def _inspected(checked: Sequence[Checked], limits: Limits | None) -> tuple[InspectedRow, ...]:
    if limits is None or not checked:
        return ()
    one = checked[0]
    return inspect_rows(one.survey.path, one.survey.row_format, limits.template, limits.loss_on)
