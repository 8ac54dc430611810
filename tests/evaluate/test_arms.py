from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.making import chat, example, row, write_jsonl
from tunewise.contracts.chat import (
    AssistantMessage,
    ChatExample,
    FunctionSpec,
    Message,
    SystemMessage,
    TextPart,
    Tool,
    UserMessage,
)
from tunewise.contracts.config import Endpoint, FewShotArm, PromptArm, RetrievalArm
from tunewise.contracts.evaluation import Fit
from tunewise.contracts.run import BaseModelRef
from tunewise.data.conversation import text_of
from tunewise.data.formats import read_examples
from tunewise.data.template import Template
from tunewise.errors import DataError, EvaluationError
from tunewise.evaluate.arms import (
    Window,
    few_shot_arm,
    few_shot_messages,
    fitting_k,
    passage_messages,
    prompt_arm,
    prompt_messages,
    retrieval_arm,
    tuned_arm,
    within,
)
from tunewise.evaluate.client import wire_message
from tunewise.evaluate.rows import EvalRow, read_rows

TRAIN = [example(f"question {index}", f"answer {index}") for index in range(20)]


def words(messages: Sequence[Message], tools: Sequence[Tool] | None) -> int:
    return sum(len(text_of(message.content).split()) for message in messages) + 10 * len(tools or ())


ROOMY = Window(10_000, 0, words)


def texts(messages: Sequence[Message]) -> list[str]:
    return [text_of(message.content) for message in messages]


def test_the_prompt_arm_sends_the_row_as_it_is() -> None:
    rows = [row("a", question="q")]
    arm = prompt_arm(PromptArm(), rows)
    assert arm.requests[0].messages == rows[0].messages
    assert (arm.arm, arm.kind, arm.settings) == ("prompt", "prompt", {})


def test_another_system_message_stands_in_place_of_the_rows() -> None:
    assert texts(prompt_messages(row(question="q"), "Other.")) == ["Other.", "q"]
    assert texts(prompt_messages(row(question="q", system=None), "Other.")) == ["Other.", "q"]


def test_the_prompt_arms_settings_say_what_differs() -> None:
    endpoint = Endpoint(
        base_url="https://x/v1", model="m", price_per_million_prompt_tokens=1, price_per_million_completion_tokens=2
    )
    arm = prompt_arm(PromptArm(name="paid", system="S", endpoint=endpoint), [row()])
    assert (arm.arm, arm.settings) == ("paid", {"system": "S", "endpoint": "https://x/v1", "endpoint_model": "m"})


def test_the_tuned_arm_asks_what_the_prompt_arm_asks() -> None:
    rows = [row(question="q")]
    assert tuned_arm(rows).requests == prompt_arm(PromptArm(), rows).requests


def test_tools_go_with_every_arm() -> None:
    tools = (Tool(FunctionSpec("f")),)
    rows = [row(question="question 3")._replace(tools=tools)]
    arms = [
        prompt_arm(PromptArm(), rows),
        tuned_arm(rows),
        few_shot_arm(FewShotArm(), rows, TRAIN, ROOMY, seed=1),
        retrieval_arm(RetrievalArm(), rows, TRAIN, ROOMY),
    ]
    assert all(arm.requests[0].tools == tools for arm in arms)


def test_examples_stand_between_the_system_message_and_the_question() -> None:
    messages = few_shot_messages(row(question="q"), TRAIN[:2])
    assert texts(messages) == ["Be brief.", "question 0", "answer 0", "question 1", "answer 1", "q"]
    assert [type(message) for message in messages[1:3]] == [UserMessage, AssistantMessage]


def test_an_examples_other_system_message_heads_its_question() -> None:
    other = example("q1", "a1", system="Be long.")
    assert texts(few_shot_messages(row(question="q"), [other])) == ["Be brief.", "Be long.\n\nq1", "a1", "q"]
    parts = ChatExample([SystemMessage("S"), UserMessage([TextPart("q1")]), AssistantMessage("a1")])
    assert texts(few_shot_messages(row(question="q"), [parts]))[1] == "S\n\nq1"


def test_no_examples_leave_the_row_as_it_is() -> None:
    assert few_shot_messages(row(question="q"), []) == row(question="q").messages


def test_all_few_shot_prompts_begin_with_the_same_bytes() -> None:
    rows = [row(question=f"q{index}") for index in range(5)]
    arm = few_shot_arm(FewShotArm(k=4), rows, TRAIN, ROOMY, seed=3)
    prefixes = {repr([wire_message(message) for message in request.messages[:-1]]) for request in arm.requests}
    assert len(prefixes) == 1
    assert len(arm.requests[0].messages) == 2 + 2 * 4


@given(seed=st.integers(0, 2**32), k=st.integers(1, 64))
def test_the_same_seed_chooses_the_same_different_examples(seed: int, k: int) -> None:
    def chosen() -> list[str]:
        return texts(few_shot_arm(FewShotArm(k=k), [row()], TRAIN, ROOMY, seed=seed).requests[0].messages[2:-1:2])

    assert chosen() == chosen()
    assert len(set(chosen())) == len(chosen()) == min(k, len(TRAIN))


def test_different_seeds_choose_different_examples() -> None:
    arms = [few_shot_arm(FewShotArm(k=3), [row()], TRAIN, ROOMY, seed=seed) for seed in range(10)]
    assert len({repr(arm.requests[0].messages) for arm in arms}) > 1


@given(room=st.integers(0, 60), completion=st.integers(0, 20))
def test_k_is_the_largest_that_fits_with_the_longest_row_and_the_answer(room: int, completion: int) -> None:
    window = Window(room, completion, words)
    rows = [row(question="a b c"), row(question="d")]
    k = fitting_k(rows, TRAIN[:8], window)
    longest = 2 + 3 + completion
    assert k == min(max((room - longest) // 4, 0), 8)


def test_the_k_that_was_used_is_reported_beside_the_one_asked_for() -> None:
    arm = few_shot_arm(FewShotArm(k=10), [row(question="q")], TRAIN, Window(20, 5, words), seed=1)
    assert arm.settings == {"k": 3, "k_asked": 10, "seed": 1}
    assert len(arm.requests[0].messages) == 2 + 2 * 3


def test_rows_that_show_fewer_examples_than_planned_are_counted(tmp_path: Path) -> None:
    rows = [row(question="q"), row(question="q")]
    roomy, tight, full = (
        few_shot_arm(FewShotArm(k=2), rows, TRAIN, Window(context, 5, words), seed=1).fit for context in (99, 12, 9)
    )
    assert (roomy, tight, full) == (Fit(), Fit(fewer_examples=2), Fit(fewer_examples=2, no_examples=2))
    few_there_are = few_shot_arm(FewShotArm(k=9), rows, TRAIN[:1], ROOMY, seed=1)
    assert few_there_are.fit == Fit(), "the context has room for all that there are"
    documents = write_jsonl(tmp_path / "docs.jsonl", [{"text": "ohio " * 10}, {"text": "utah " * 10}])
    rows = [row(question="ohio"), row(question="ohio " * 15), row(question="ohio " * 60)]
    retrieved = retrieval_arm(RetrievalArm(k=9, documents=documents), rows, [], Window(32, 1, words))
    assert retrieved.fit == Fit(fewer_examples=2, no_examples=1)


def test_a_long_row_gets_the_answer_limit_that_the_context_leaves() -> None:
    rows = [row(question="a " * length) for length in (3, 4, 7, 8, 20)]
    arm = within(tuned_arm(rows), Window(10, 4, words))
    # Two tokens are the system message's; where no token is left the server's refusal is the answer.
    assert [request.completion for request in arm.requests] == [None, None, 1, None, None]
    assert arm.fit == Fit(lowered_limits=1)
    assert [request.messages for request in arm.requests] == [row.messages for row in rows]


def test_train_rows_without_an_answer_are_no_examples() -> None:
    train = [ChatExample([UserMessage("no answer")]), TRAIN[0]]
    arm = few_shot_arm(FewShotArm(k=5), [row(question="q")], train, ROOMY, seed=1)
    assert texts(arm.requests[0].messages) == ["Be brief.", "question 0", "answer 0", "q"]
    with pytest.raises(EvaluationError, match="no train row"):
        few_shot_arm(FewShotArm(), [row()], train[:1], ROOMY, seed=1)


def test_without_documents_the_most_similar_train_row_stands_next_to_the_question() -> None:
    train = [example("red apples", "1"), example("green pears", "2"), example("green apples", "3")]
    arm = retrieval_arm(RetrievalArm(k=2), [row(question="green apples?")], train, ROOMY)
    assert texts(arm.requests[0].messages)[-3:] == ["green apples", "3", "green apples?"]
    assert arm.settings == {"k": 2, "k_asked": 2, "k_mean": 2.0, "source": "train rows"}


def test_passages_are_numbered_before_the_question_best_first(tmp_path: Path) -> None:
    documents = write_jsonl(tmp_path / "docs.jsonl", [{"text": "Utah has salt."}, {"text": "Ohio has corn.", "id": 1}])
    arm = retrieval_arm(RetrievalArm(k=2, documents=documents), [row(question="What has Ohio?")], [], ROOMY)
    assert texts(arm.requests[0].messages) == [
        "Be brief.",
        "Passages:\n\n[1] Ohio has corn.\n\n[2] Utah has salt.\n\nWhat has Ohio?",
    ]
    assert arm.settings["source"] == "docs.jsonl"


def test_passages_go_into_the_last_user_turn() -> None:
    turns = (UserMessage("one"), AssistantMessage("two"), UserMessage([TextPart("three")]))
    messages = passage_messages(EvalRow(1, turns, None, "", {}), ["P"])
    assert texts(messages) == ["one", "two", "Passages:\n\n[1] P\n\nthree"]
    assert texts(passage_messages(EvalRow(1, (SystemMessage("s"),), None, "", {}), ["P"])) == [
        "s",
        "Passages:\n\n[1] P",
    ]
    assert passage_messages(EvalRow(1, turns, None, "", {}), []) == turns


def test_each_row_gets_as_many_passages_as_fit(tmp_path: Path) -> None:
    documents = write_jsonl(tmp_path / "docs.jsonl", [{"text": "ohio " * 10}, {"text": "utah " * 10}])
    rows = [row(question="ohio"), row(question="ohio " * 15), row(question="ohio " * 60)]
    arm = retrieval_arm(RetrievalArm(k=2, documents=documents), rows, [], Window(32, 1, words))
    assert [text_of(request.messages[1].content).count("[") for request in arm.requests] == [2, 1, 0]
    assert (arm.settings["k"], arm.settings["k_mean"]) == (2, 1.0)
    assert arm.requests[2].messages == rows[2].messages


@pytest.mark.parametrize("documents", [[], [{"title": "x"}], [{"text": 1}], [{"text": " "}], ["x"]])
def test_documents_without_a_text_are_refused(tmp_path: Path, documents: list[object]) -> None:
    path = write_jsonl(tmp_path / "docs.jsonl", documents)
    with pytest.raises(DataError):
        retrieval_arm(RetrievalArm(documents=path), [row()], TRAIN, ROOMY)


def test_with_the_real_template_few_shot_fills_the_context_and_no_more(
    shared_data: Path, smollm2: BaseModelRef
) -> None:
    template = Template.load(smollm2.path)

    def count(messages: Sequence[Message], tools: Sequence[Tool] | None) -> int:
        return len(template.prompt_ids(messages, tools))

    directory = shared_data / "recipes"
    rows = read_rows(directory / "test.jsonl")
    train = [found for _, found in read_examples(directory / "train.jsonl")]
    arm = few_shot_arm(FewShotArm(k=64), rows, train, Window(2048, 128, count), seed=0)
    k = arm.settings["k"]
    assert 5 <= int(k) < 64
    assert max(count(request.messages, None) for request in arm.requests) + 128 <= 2048
    # The shared prefix is one of tokens, too, which is what a prefix cache compares.
    shared = template.prompt_ids(arm.requests[0].messages[:-1], None)[:-3]
    first, second = (template.prompt_ids(request.messages, None) for request in arm.requests[:2])
    assert first[: len(shared) - 8] == second[: len(shared) - 8]


def test_a_test_rows_own_answer_is_never_sent(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [chat(("user", "q"), ("assistant", "SECRET"))])
    rows = read_rows(path)
    arms = [
        prompt_arm(PromptArm(system="s"), rows),
        few_shot_arm(FewShotArm(), rows, TRAIN, ROOMY, seed=1),
        retrieval_arm(RetrievalArm(), rows, TRAIN, ROOMY),
        tuned_arm(rows),
    ]
    assert not any("SECRET" in repr(arm.requests) for arm in arms)
