import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz import fuzz, utils
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import sentence_bleu

from evaluate.making import row
from tunewise.contracts.chat import Json
from tunewise.contracts.graders import ExactMatch, StringCheck, TextSimilarity
from tunewise.errors import EvaluationError
from tunewise.evaluate.graders import grade
from tunewise.evaluate.graders.text import similarity

ASCII = st.text(st.characters(codec="ascii"), max_size=60)
ORDERS = ["rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"]


def one(grader: StringCheck | TextSimilarity | ExactMatch, answer: str, reference: str = "", **item: Json) -> float:
    return grade(grader, [row(reference, **item)], [answer]).rows[0]


CHECKS = [
    ("eq", "Paris", "Paris", 1),
    ("eq", "Paris ", "Paris", 0),
    ("eq", "paris", "Paris", 0),
    ("ne", "Paris", "Paris", 0),
    ("ne", "paris", "Paris", 1),
    ("like", "It is Paris.", "Paris", 1),
    ("like", "It is paris.", "Paris", 0),
    ("like", "Paris", "It is Paris.", 0),
    ("ilike", "It is paris.", "Paris", 1),
    ("ilike", "STRASSE", "straße", 1),
    ("ilike", "Rome", "Paris", 0),
]


@pytest.mark.parametrize(("operation", "answer", "reference", "score"), CHECKS)
def test_string_check_compares_as_openai_does(operation: str, answer: str, reference: str, score: int) -> None:
    grader = StringCheck.model_validate({"name": "g", "operation": operation})
    assert one(grader, answer, reference) == score


def test_exact_match_strips_white_space_and_nothing_else() -> None:
    grader = ExactMatch(name="g")
    assert one(grader, " a\n", "a") == 1
    assert one(grader, "A", "a") == 0


TEMPLATES = [
    ("{{ item.reference }}", "ref"),
    ("{{item.a.b}}", "deep"),
    ("{{ item.list[1] }}!", "y!"),
    ("{{ item.list }}", '["x", "y"]'),
    ("{{ item.n }}", "1.5"),
    ("{{ item.null }}", "null"),
    ("{{ sample.output_text }} {{ item.n }}", '{"f": "v", "n": [1]} 1.5'),
    ("{{ sample.output_json.f }}", "v"),
    ("{{ sample.output_json.n[0] }}", "1"),
    ("{ item.n }", "{ item.n }"),
]


@pytest.mark.parametrize(("template", "text"), TEMPLATES)
def test_templates_reach_into_item_and_sample(template: str, text: str) -> None:
    item = {"a": {"b": "deep"}, "list": ["x", "y"], "n": 1.5, "null": None}
    grader = StringCheck(name="g", input=template, reference=text)
    assert one(grader, '{"f": "v", "n": [1]}', "ref", **item) == 1


WRONG_TEMPLATES = [
    ("{{ item.answer }}", "list, reference"),
    ("{{ item.list[5] }}", "a list of 2"),
    ("{{ item.reference.x }}", "a str"),
    ("{{ sample.output_tools }}", "output_text, output_json"),
    ("{{ sample.output_text.x }}", "without fields"),
    ("{{ answer }}", "is not a variable"),
    ("{{ other.x }}", "is not a variable"),
    ("{{ }}", "is not a variable"),
]


@pytest.mark.parametrize(("template", "what"), WRONG_TEMPLATES)
def test_a_variable_that_does_not_exist_is_refused_with_those_that_do(template: str, what: str) -> None:
    with pytest.raises(EvaluationError, match=what):
        one(StringCheck(name="g", input=template), "answer", list=["x", "y"])


@pytest.mark.parametrize("answer", ["no json", "{}", "[1]", '{"f"', "[" * 100_000, "1" * 10_000])
@pytest.mark.parametrize("operation", ["eq", "ne", "like", "ilike"])
def test_an_answer_without_the_json_field_scores_0(operation: str, answer: str) -> None:
    grader = StringCheck.model_validate(
        {"name": "g", "input": "{{ sample.output_json.f }}", "reference": "", "operation": operation}
    )
    assert one(grader, answer) == 0


def test_a_reference_may_not_depend_on_the_answer() -> None:
    with pytest.raises(EvaluationError, match="cannot depend on the answer"):
        one(ExactMatch(name="g", reference="{{ sample.output_text }}"), "a")


@given(ASCII, ASCII)
def test_rouge_is_that_of_the_library_on_ascii(text: str, reference: str) -> None:
    names = {"rouge_l": "rougeL"} | {f"rouge_{n}": f"rouge{n}" for n in range(1, 6)}
    oracle = RougeScorer(list(names.values())).score(reference, text)
    for metric, name in names.items():
        expected = 1.0 if text == reference else oracle[name].fmeasure
        assert similarity(metric, text, reference) == pytest.approx(expected)


def test_rouge_reads_scripts_other_than_latin() -> None:
    assert similarity("rouge_1", "кошка спит", "кошка ест") == 0.5


def test_bleu_is_sacrebleus_sentence_score_from_0_to_1() -> None:
    text, reference = "the cat sat on the mat today", "the cat sat on a mat today"
    assert similarity("bleu", text, reference) == pytest.approx(sentence_bleu(text, [reference]).score / 100)


def test_fuzzy_match_is_rapidfuzz_wratio_on_processed_texts() -> None:
    text, reference = "fuzzy wuzzy was a bear", "Fuzzy Wuzzy had no hair!"
    expected = fuzz.WRatio(text, reference, processor=utils.default_process) / 100
    assert similarity("fuzzy_match", text, reference) == expected
    assert 0 < expected < 1


@pytest.mark.parametrize("metric", ["fuzzy_match", "bleu", *ORDERS])
@given(text=st.text(), reference=st.text())
def test_every_similarity_is_from_0_to_1_and_1_for_equal_texts(metric: str, text: str, reference: str) -> None:
    assert 0 <= similarity(metric, text, reference) <= 1
    assert similarity(metric, reference, reference) == 1
