"""The label grader: classification by exact label.

Only surrounding white space is stripped: labels that differ in case or in a question mark are different labels.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tunewise.contracts.graders import Label
from tunewise.evaluate.graders.graded import Graded, mean, misconfigured, share
from tunewise.evaluate.graders.template import fill_reference
from tunewise.evaluate.rows import EvalRow


def grade_label(grader: Label, rows: Sequence[EvalRow], answers: Sequence[str], train_answers: Sequence[str]) -> Graded:
    """Accuracy per row; over all rows macro-F1 and the share of answers outside the labels.

    Raises:
        EvaluationError: no labels to be had, or a reference that is none of those given in the config.
    """
    references = [fill_reference(grader.reference, row).strip() for row in rows]
    labels = allowed_labels(grader, references, train_answers)
    given = [answer.strip() for answer in answers]
    return Graded(
        [float(answer == reference) for answer, reference in zip(given, references, strict=True)],
        {
            "macro_f1": macro_f1(references, given, labels),
            "outside_labels": share([answer not in labels for answer in given]),
        },
    )


def allowed_labels(grader: Label, references: Sequence[str], train_answers: Sequence[str]) -> frozenset[str]:
    """The labels of the config or of its JSON file; without them those of the train rows and the references."""
    if grader.labels is None:
        return frozenset(answer.strip() for answer in train_answers) | frozenset(references)
    listed = _read_labels(grader.name, grader.labels) if isinstance(grader.labels, Path) else grader.labels
    labels = frozenset(label.strip() for label in listed)
    unknown = sorted(set(references) - labels)
    if unknown:
        raise misconfigured(grader.name, f"the reference {unknown[0]!r} is none of its {len(labels)} labels; add it")
    return labels


def macro_f1(references: Sequence[str], answers: Sequence[str], labels: frozenset[str]) -> float:
    """Mean F1 of the labels that occur in references or answers (scikit-learn's f1_score(average="macro")).

    An answer outside the labels is a miss for its reference, but no class of its own: else free text, different in
    every row, would outnumber the labels.
    """
    seen = sorted((set(references) | set(answers)) & labels)
    return mean([_f1(references, answers, label) for label in seen])


def _f1(references: Sequence[str], answers: Sequence[str], label: str) -> float:
    hits = sum(reference == label == answer for reference, answer in zip(references, answers, strict=True))
    return 2 * hits / (references.count(label) + answers.count(label))


def _read_labels(grader: str, path: Path) -> list[str]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[str])
    except OSError as error:
        raise misconfigured(grader, f"cannot read the labels file {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise misconfigured(grader, f"the labels file {path} is no JSON list of strings: {error}") from error
