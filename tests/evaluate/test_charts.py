"""Charts: marks stand where the numbers say, and a picture is readable without eyes."""

import math
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.finished_run import GSM8K, RECIPES, UNDECIDED, report
from tunewise.evaluate.charts import Chart, Line, Mark, interval_bar, line_chart, scale_top, short, thinned, ticks
from tunewise.evaluate.pictures import cost_picture, loss_picture


@given(st.floats(1e-6, 1e12))
def test_ticks_are_round_and_cover_the_axis(top: float) -> None:
    found = ticks(top)
    assert found[0] == 0
    assert 2 <= len(found) <= 6
    assert found[-1] <= top * 1.0001
    step = found[1]
    assert re.fullmatch(r"[125](\.0+)?e[+-]\d+", f"{step:.6e}".replace(".000000", "")) is not None


@pytest.mark.parametrize(("value", "label"), [(0, "0"), (0.05, "0.05"), (1500, "1.5k"), (2e6, "2M"), (3e-5, "3e-05")])
def test_tick_labels_are_short(value: float, label: str) -> None:
    assert short(value) == label


def test_scale_ends_at_one_or_at_a_round_number_for_small_scores() -> None:
    assert [scale_top(x) for x in (0.0, 0.04, 0.3, 0.51, 1.0)] == [0.02, 0.05, 0.5, 1.0, 1.0]


def test_bar_and_whisker_are_to_scale() -> None:
    svg = ET.fromstring(str(interval_bar(0.5, 0.25, 0.75, 1.0, "tuned")))
    fill, whisker = svg[1], svg[2]
    assert fill.attrib["width"] == "150"
    assert whisker.attrib["d"] == "M75 9H225M75 3V15M225 3V15"


def test_chart_is_xml_with_title_and_description_and_escapes_its_labels() -> None:
    chart = Chart("c", "<b>", "a & b", "x", "y", [Line("l", "tuned", [(0, 0), (10, 5)])], [Mark("<i>", 10, 5)])
    svg = ET.fromstring(str(line_chart(chart)))
    assert (svg[0].text, svg[1].text) == ("<b>", "a & b")
    assert svg.attrib["aria-labelledby"] == "c-title c-desc"
    assert "<i>" in [text.text for text in svg.iter("text")]


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 50)), min_size=1, max_size=700))
def test_thinning_keeps_the_mean_of_equal_chunks_and_bounds_the_number(points: list[tuple[float, float]]) -> None:
    kept = thinned(points)
    assert 1 <= len(kept) <= 120
    low, high = min(y for _, y in points), max(y for _, y in points)
    assert all(low - 1e-9 <= y <= high + 1e-9 for _, y in kept)


def test_break_even_marks_lie_on_the_line_of_the_tuned_model() -> None:
    finished = report(RECIPES)
    picture = cost_picture(finished.arms, finished.economics)
    assert picture is not None
    svg = ET.fromstring(str(picture.svg))
    tuned = next(path for path in svg.iter("path") if path.attrib["class"] == "line tuned")
    x0, y0, x1, y1 = (float(number) for number in re.findall(r"[\d.]+", tuned.attrib["d"]))
    marks = [circle for circle in svg.iter("circle") if circle.attrib["class"] == "mark"]
    assert len(marks) == 3
    for mark in marks:
        x, y = float(mark.attrib["cx"]), float(mark.attrib["cy"])
        assert math.isclose(y, y0 + (y1 - y0) * (x - x0) / (x1 - x0), abs_tol=0.2)


def test_cost_picture_says_in_words_when_training_is_earned_back() -> None:
    finished = report(UNDECIDED)
    picture = cost_picture(finished.arms, finished.economics)
    assert picture is not None
    assert "against prompt never" in picture.svg
    assert "against few_shot after 11,000 requests" in picture.svg


def test_pictures_are_left_out_where_there_is_nothing_to_draw() -> None:
    finished = report(GSM8K)
    priceless = [arm.model_copy(update={"machine_hours_per_1000": None}) for arm in finished.arms]
    assert cost_picture(priceless, finished.economics) is None
    assert loss_picture(()) is None
