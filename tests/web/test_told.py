"""The forms of sentences that are translated are the forms that the rules speak in."""

import json
import re
from pathlib import Path

import pytest

from evaluate.test_verdict import arm, costs, verdict
from tunewise.contracts.evaluation import Verdict
from tunewise.data.check import check
from tunewise.web.told import PARTS, SENTENCES, form_of

GOOD, MIDDLING, BAD = [1.0] * 60, [1.0] * 30 + [0.0] * 30, [0.0] * 60


def against(tuned: list[float], other: list[float]) -> Verdict:
    return verdict(arm("tuned", "tuned", tuned), arm("prompt", "prompt", other), economics=costs(400.0))


CASES = {
    "better": against(GOOD, BAD),
    "unusable": against(BAD, BAD),
    "worse": against(MIDDLING, GOOD),
    "as good": against(GOOD, GOOD),
    "few rows": against(GOOD[:12], BAD[:12]),
    "leaked": verdict(arm("tuned", "tuned", GOOD), arm("prompt", "prompt", BAD), leaked=3),
    "cut": verdict(arm("tuned", "tuned", GOOD, cut=30), arm("prompt", "prompt", BAD)),
    "floors only": verdict(arm("tuned", "tuned", GOOD), arm("majority", "majority", BAD)),
}


@pytest.mark.parametrize("case", CASES)
def test_every_headline_has_a_form_and_all_of_it_stands_in_its_places(case: str) -> None:
    headline = CASES[case].headline
    found = form_of(SENTENCES, headline)
    assert found is not None, headline
    form, values = found
    assert form.format(**values) == headline


@pytest.mark.parametrize("case", sorted(set(CASES) - {"leaked"}))
def test_every_reason_of_a_usual_verdict_has_a_form(case: str) -> None:
    missing = [reason for reason in CASES[case].reasons if form_of(SENTENCES, reason) is None]
    assert missing == []


def test_the_meaning_of_a_difference_has_a_form() -> None:
    meanings = [
        values["meaning"]
        for one in CASES.values()
        for reason in one.reasons
        if (found := form_of(SENTENCES, reason)) and "meaning" in (values := found[1])
    ]
    assert len(meanings) >= len(CASES)
    assert all(form_of(PARTS, meaning) for meaning in meanings)


def test_common_findings_and_their_remedies_have_forms(tmp_path: Path) -> None:
    def row(question: str, answer: str) -> str:
        return json.dumps(
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        )

    rows = [row("What is it?", "a"), row("What is it?", "a"), row("What is it?", "b"), "", row("Write to x@y.org", "z")]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*rows, row("Why?", "")]))
    found = check([("train", path)]).findings
    assert {one.code for one in found} >= {"duplicate", "conflicting_answer", "blank_line", "personal_data"}
    assert {one.code for one in found} >= {"empty_assistant_content", "invalid_n_examples"}
    texts = [text for one in found for text in (one.message, one.remedy)]
    assert [text for text in texts if form_of(SENTENCES, text) is None] == []


def test_a_sentence_of_no_form_has_none() -> None:
    assert form_of(SENTENCES, "Nobody ever says this.") is None
    assert all(len(set(re.findall(r"{(\w+)}", form))) == form.count("{") for form in SENTENCES)
