"""The report: whole, offline, and safe with whatever a model answered."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evaluate.finished_run import GSM8K, RECIPES, UNDECIDED, Story, report
from tunewise.contracts.check import InspectedRow, InspectedToken
from tunewise.contracts.evaluation import Report
from tunewise.evaluate.report import MOST_CHARACTERS, MOST_TOKENS, render_html, shortened, write_report

VOID = {"meta", "link", "br", "hr", "img", "input"}
EVIL = '<script>alert(1)</script><img src="https://evil.example/x.png" onerror="alert(2)">'


class Page(HTMLParser):
    """Reads a page strictly: every element that is opened is closed, in order; ids are unique."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs] or [(tag, "", None)]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs] or [(tag, "", None)]

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag, f"</{tag}> closes another element, at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _, _ in self.attributes}

    def values(self, *names: str) -> list[str]:
        return [value or "" for _, name, value in self.attributes if name in names]


@pytest.fixture(scope="module", params=[RECIPES, GSM8K, UNDECIDED], ids=lambda story: story.title)
def finished(request: pytest.FixtureRequest) -> Report:
    story: Story = request.param
    return report(story)


def test_page_is_well_formed_and_ids_are_unique(finished: Report) -> None:
    page = Page(render_html(finished))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {"main", "h1", "svg", "table", "details"} <= page.tags
    referred = " ".join(page.values("aria-labelledby")).split()
    assert set(referred) <= set(ids)


def test_page_needs_no_network_and_runs_no_script(finished: Report) -> None:
    html = render_html(finished)
    page = Page(html)
    assert page.values("src", "href", "xlink:href", "srcset", "data", "action") == []
    assert not {"script", "link", "img", "iframe", "object"} & page.tags
    assert "url(" not in html
    assert "@import" not in html
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert any("default-src 'none'" in value for value in page.values("content"))


def test_first_things_on_the_page_are_what_it_is_and_the_verdict(finished: Report) -> None:
    text = " ".join(Page(render_html(finished)).text.split("</style>")[-1].split())
    start = text.index("Tunewise report on")
    outcome = {"worth_it": "Worth it", "not_worth_it": "Not worth it", "inconclusive": "Inconclusive"}
    shown = text[start : start + 500]
    assert finished.title in shown
    assert outcome[finished.verdict.outcome] in shown
    assert finished.verdict.headline.partition(": ")[2][1:] in shown


def test_every_arm_and_reason_is_on_the_page(finished: Report) -> None:
    text = " ".join(Page(render_html(finished)).text.split())
    for arm in finished.arms:
        assert arm.arm in text
        assert f"{arm.scores[0].mean.value:.3f}" in text
    for reason in finished.verdict.reasons:
        assert " ".join(reason.split()) in text
    for line in finished.decision:
        assert line.answer in text


def poisoned(clean: Report) -> Report:
    answers = tuple(
        collected.model_copy(
            update={"answers": tuple(answer.model_copy(update={"text": EVIL}) for answer in collected.answers)}
        )
        for collected in clean.answers
    )
    questions = tuple(q.model_copy(update={"question": EVIL, "reference": EVIL}) for q in clean.questions)
    tokens = (InspectedToken(text=EVIL, trained=True), InspectedToken(text=EVIL, trained=False))
    inspected = (InspectedRow(file=EVIL, line=1, tokens=tokens),)
    finding = clean.check.findings[0].model_copy(update={"value": EVIL, "message": EVIL, "param": EVIL})
    check = clean.check.model_copy(update={"inspected": inspected, "findings": (finding,)})
    return clean.model_copy(
        update={
            "title": EVIL,
            "answers": answers,
            "questions": questions,
            "check": check,
            "manifest": {EVIL: EVIL},
            "primary_grader": clean.primary_grader,
        }
    )


def test_what_a_model_wrote_stays_text() -> None:
    page = Page(render_html(poisoned(report(UNDECIDED))))
    assert not {"script", "img"} & page.tags
    assert page.text.count("<script>alert(1)</script>") > 20


def test_long_texts_are_cut_and_say_so() -> None:
    text = shortened("x" * (MOST_CHARACTERS + 1))
    assert text.endswith(f"[cut here: {MOST_CHARACTERS + 1:,} characters in all]")
    assert shortened("x" * MOST_CHARACTERS) == "x" * MOST_CHARACTERS


def test_inspector_shows_the_trained_end_of_a_long_row() -> None:
    clean = report(RECIPES)
    tokens = (
        *(InspectedToken(text=f"w{i} ", trained=False) for i in range(1_000)),
        InspectedToken(text="ok", trained=True),
    )
    check = clean.check.model_copy(update={"inspected": (InspectedRow(file="t", line=1, tokens=tokens),)})
    html = render_html(clean.model_copy(update={"check": check}))
    assert f"[{1_001 - MOST_TOKENS} tokens before this not shown]" in html
    assert "<mark>ok</mark>" in html
    assert "w1 " not in html


def test_wins_and_regressions_are_the_largest_differences() -> None:
    finished = report(RECIPES)
    html = render_html(finished)
    scores = {arm.arm: arm.scores[0].rows for arm in finished.arms}
    gains = [a - b for a, b in zip(scores["tuned"], scores[finished.verdict.best_alternative], strict=True)]
    for row in (max(range(200), key=gains.__getitem__), min(range(200), key=gains.__getitem__)):
        assert f"Test row {finished.questions[row].line}<" in html


def test_files_are_written_whole_and_read_back(tmp_path: Path) -> None:
    finished = report(UNDECIDED)
    write_report(finished, tmp_path / "new")
    write_report(finished, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["decision.md", "report.html", "report.json"]
    text = (tmp_path / "new" / "report.json").read_text(encoding="utf-8")
    assert Report.model_validate_json(text) == finished
    assert json.loads(text)["verdict"]["outcome"] == "inconclusive"
    assert (tmp_path / "new" / "report.html").stat().st_size < 100_000


def test_report_of_a_run_that_inspected_and_found_nothing_still_stands() -> None:
    clean = report(GSM8K)
    check = clean.check.model_copy(update={"findings": (), "inspected": ()})
    bare = clean.model_copy(update={"check": check, "curve": (), "manifest": {}})
    page = Page(render_html(bare))
    assert "No problem was found." in page.text
    assert "Not inspected." in page.text


@pytest.mark.parametrize(("step", "is_told"), [(300, True), (450, False), (None, False)])
def test_an_adapter_from_before_the_last_step_is_told(step: int | None, is_told: bool) -> None:
    finished = report(RECIPES)
    stopped = finished.model_copy(update={"result": finished.result.model_copy(update={"adapter_step": step})})
    told = "The adapter is that of step 300, where the validation loss was lowest (0.27)."
    assert (told in Page(render_html(stopped)).text) == is_told


def test_a_run_on_preferences_shows_how_many_pairs_came_right() -> None:
    finished = report(RECIPES)
    curve = tuple(
        step.model_copy(
            update={"train_reward_accuracy": 0.75, "full_valid_reward_accuracy": step.full_valid_loss and 0.5}
        )
        for step in finished.curve
    )
    told = "validation pairs, all, at the end of an epoch: 0.5 at last"
    assert told in render_html(finished.model_copy(update={"curve": curve}))
    assert told not in render_html(finished)
