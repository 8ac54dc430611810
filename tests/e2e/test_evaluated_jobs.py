"""Jobs with an evaluation, by a real worker: from test rows to a verdict, whatever is killed or paused meanwhile."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.nursery import Nursery
from jobs.surviving import BASE, PROJECT, Place, kill_trainers, make_place, start_worker, working
from tunewise.contracts.evaluation import Report
from tunewise.contracts.evaluations import Evaluation, EvaluationRequest
from tunewise.contracts.fine_tuning import Hyperparameters, Method, Supervised
from tunewise.contracts.jobs import Caller
from tunewise.contracts.run import BaseModelRef
from tunewise.contracts.study import STUDY_DIR
from tunewise.errors import RequestError
from tunewise.jobs import evaluations, fine_tuning, models, trainer
from tunewise.jobs.desk import spawn_study
from tunewise.jobs.fine_tuning import Submission

CALLER = Caller(organization="org", project=PROJECT, role="admin")
COLOURS = ("red", "green", "blue", "amber")
TRAIN_ROWS, TEST_ROWS = 24, 8
LABEL = {"name": "colour", "type": "label"}


def row(number: int) -> str:
    colour = COLOURS[number % len(COLOURS)]
    asked = {"role": "user", "content": f"Which colour has ball number {number}, painted {colour}?"}
    return json.dumps({"messages": [asked, {"role": "assistant", "content": colour}]})


def submission(place: Place) -> Submission:
    hyperparameters = Hyperparameters(n_epochs=2, batch_size=4)
    return Submission(
        model=BASE,
        training_file=place.add_file([row(number) for number in range(TRAIN_ROWS)]),
        validation_file=None,
        method=Method(supervised=Supervised(hyperparameters=hyperparameters)),
        seed=3,
        suffix="colours",
        metadata=None,
        integrations=None,
    )


def request(place: Place, rows: list[str] | None = None, **changes: object) -> EvaluationRequest:
    """One question at a time, and long answers: there is time to kill."""
    test_file = place.add_file(rows or [row(200 + number) for number in range(TEST_ROWS)])
    plan = {
        "test_file": test_file,
        "graders": [LABEL],
        "arms": {"few_shot": {"k": 2}, "retrieval": None},
        "evaluation": {"concurrency": 1, "max_completion_tokens": 20},
    }
    return EvaluationRequest.model_validate(plan | changes)


def submit_run(place: Place, asked: EvaluationRequest | None = None) -> str:
    return evaluations.submit_run(place.platform, CALLER, submission(place), asked or request(place)).id


def evaluation(place: Place, job_id: str) -> Evaluation:
    return evaluations.retrieve(place.platform, CALLER, job_id)


def report(place: Place, job_id: str) -> Report:
    return evaluations.report(place.platform, CALLER, job_id)


def study_dir(place: Place, job_id: str) -> Path:
    return place.run_dir(job_id) / STUDY_DIR


def verdict_of(place: Place, job_id: str) -> Evaluation:
    place.wait(lambda: evaluation(place, job_id).status in {"succeeded", "failed", "cancelled"}, 120)
    found = evaluation(place, job_id)
    assert found.status == "succeeded", f"{found.error}\n{place.story()}\n{study_log(place, job_id)}"
    return found


def study_log(place: Place, job_id: str) -> str:
    return (study_dir(place, job_id) / trainer.LOG_FILE).read_text()


def answers_kept(place: Place, job_id: str, arm: str = "*") -> list[list[int]]:
    """The rows that each arm's file of answers has, as they came."""
    files = sorted((study_dir(place, job_id) / "stages").glob(f"answers-{arm}-*.jsonl"))
    return [[json.loads(line)["answer"]["row"] for line in file.read_bytes().splitlines()] for file in files]


def wait_for_answers(place: Place, job_id: str, count: int, arm: str = "*") -> None:
    place.wait(lambda: sum(map(len, answers_kept(place, job_id, arm))) >= count)


def kill_study(place: Place, job_id: str) -> None:
    assert trainer.send(study_dir(place, job_id), signal.SIGKILL)


def told(place: Place, job_id: str) -> list[str]:
    """What was told beside the steps, without names."""
    return [words for words in place.words(job_id) if not words.startswith("Step ")]


def kill_all(place: Place) -> None:
    kill_trainers(place)
    for run_dir in place.platform.runs_dir.iterdir():
        trainer.send(run_dir / STUDY_DIR, signal.SIGKILL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, tiny_model: BaseModelRef) -> Iterator[Place]:
    place = make_place(tmp_path_factory.mktemp("evaluated"), nursery, tiny_model)
    yield place
    kill_all(place)
    place.platform.database.close()


@pytest.fixture(scope="module")
def judged(place: Place) -> str:
    """A job that nobody disturbed on its way to a verdict."""
    job_id = submit_run(place)
    with working(place):
        verdict_of(place, job_id)
        place.wait_until_released(job_id)
    return job_id


def test_a_run_goes_from_frozen_test_rows_to_a_verdict(place: Place, judged: str) -> None:
    found, written = evaluation(place, judged), report(place, judged)
    assert (found.outcome, found.headline) == (written.verdict.outcome, written.verdict.headline)
    assert {arm.arm for arm in written.arms} == {"prompt", "few_shot", "tuned", "majority", "nearest"}
    assert found.scores is not None
    assert set(found.scores) == {arm.arm for arm in written.arms}
    assert written.title == f"colours: {BASE} tuned on rows.jsonl"
    assert written.manifest["job"] == judged
    assert written.check.estimate is not None
    assert [step.step for step in written.curve] == list(range(1, 13))
    words = told(place, judged)
    baselines = next(index for index, said in enumerate(words) if said.startswith("Baselines: "))
    assert words[baselines + 1] == "Fine-tuning job started", "the alternatives are asked before training"
    assert words[-2:] == ["The job has successfully completed", f"Verdict: {found.headline}"]
    numbers = place.numbers(judged)
    assert numbers == list(range(1, len(numbers) + 1))
    progress = evaluations.progress(place.platform, CALLER, judged)
    assert (progress.stage, {stage.state for stage in progress.stages}) == ("verdict", {"done"})
    assert "<html" in evaluations.report_page(place.platform, CALLER, judged)


def test_a_study_that_has_ended_is_not_done_again_and_runs_by_hand(place: Place, judged: str) -> None:
    directory = study_dir(place, judged)
    before = (directory / "result.json").stat().st_mtime_ns
    child = trainer.start(directory, spawn_study)
    assert child is not None
    assert child.wait() == 0, study_log(place, judged)
    assert "has ended already" in study_log(place, judged)
    assert (directory / "result.json").stat().st_mtime_ns == before


def test_a_run_that_is_killed_and_paused_on_its_way_equals_an_undisturbed_one(place: Place, judged: str) -> None:
    job_id = submit_run(place)
    worker = start_worker(place)
    wait_for_answers(place, job_id, 2)
    kill_study(place, job_id)
    wait_for_answers(place, job_id, 5)
    worker.kill()
    worker = start_worker(place)
    wait_for_answers(place, job_id, 8)
    fine_tuning.pause(place.platform, CALLER, job_id)
    place.wait_until_released(job_id)
    assert not trainer.is_running(study_dir(place, job_id))
    assert place.job(job_id).status == "paused"
    paused = evaluations.progress(place.platform, CALLER, job_id)
    assert (paused.stage, paused.stages[2].state) == ("baselines", "waiting")
    fine_tuning.resume(place.platform, CALLER, job_id)
    wait_for_answers(place, job_id, 3, "tuned")
    assert place.job(job_id).status == "succeeded"
    worker.kill()
    with working(place):
        wait_for_answers(place, job_id, 5, "tuned")
        kill_study(place, job_id)
        verdict_of(place, job_id)
        place.wait_until_released(job_id)
    assert evaluation(place, job_id).attempts in {1, 2}, "a kill counts where the study's worker was there to see it"
    assert answers_kept(place, job_id) == [list(range(TEST_ROWS))] * 3, "no answer that was kept is asked again"
    assert scores(place, job_id) == scores(place, judged)
    meanwhile = ("The job was paused", "The job was resumed")
    assert [words for words in told(place, job_id) if words not in meanwhile] == told(place, judged)


def scores(place: Place, job_id: str) -> list[object]:
    """Everything that a report says of the arms, without what a clock decides."""
    written = report(place, job_id)
    texts = [[answer.text for answer in answers.answers] for answers in written.answers]
    return [[(arm.arm, arm.scores) for arm in written.arms], texts, written.verdict.comparisons]


def test_a_bad_test_file_fails_the_job_before_anything_is_trained(place: Place) -> None:
    asked = request(place, [row(1), '{"messages": 3}'])
    job_id = submit_run(place, asked)
    with working(place):
        job = place.wait_for(job_id, "failed", "succeeded")
        place.wait_until_released(job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert f"{asked.test_file}, line 2" in job.error.message
    assert str(place.platform.files_dir) not in job.error.message
    assert evaluation(place, job_id).error == job.error
    assert not (place.run_dir(job_id) / "events.jsonl").exists()
    stages = evaluations.progress(place.platform, CALLER, job_id).stages
    assert [stage.state for stage in stages] == ["stopped", *["waiting"] * 5]


def test_a_cancelled_job_leaves_no_study_behind(place: Place) -> None:
    job_id = submit_run(place)
    with working(place):
        wait_for_answers(place, job_id, 1)
        fine_tuning.cancel(place.platform, CALLER, job_id)
        place.wait_until_released(job_id)
    assert not trainer.is_running(study_dir(place, job_id))
    assert evaluation(place, job_id).status == "cancelled"


def test_a_study_that_dies_again_and_again_fails_its_job_with_the_cause(place: Place) -> None:
    job_id = submit_run(place)
    with working(place):
        while place.job(job_id).status not in {"failed", "succeeded"}:
            trainer.send(study_dir(place, job_id), signal.SIGKILL)
        place.wait_until_released(job_id)
    assert evaluation(place, job_id).attempts == 4
    error = place.job(job_id).error
    assert error is not None
    assert error.code == "evaluation_killed"


def test_any_succeeded_job_is_evaluated_and_stays_succeeded_where_that_fails(place: Place) -> None:
    job = fine_tuning.submit(place.platform, CALLER, submission(place))
    mismatch = {**LABEL, "reference": "{{ item.colour }}", "labels": list(COLOURS)}
    items = place.add_file([json.dumps({"colour": COLOURS[(number + 1) % 4]}) for number in range(TEST_ROWS)])
    with working(place):
        place.wait_for(job.id, "succeeded", "failed")
        with pytest.raises(RequestError, match="has no evaluation"):
            evaluation(place, job.id)
        bad = request(place, graders=[mismatch], test_items=items)
        assert evaluations.attach(place.platform, CALLER, job.id, bad).status == "pending"
        model = place.models(job.id)[-1].name
        for use in (lambda: evaluations.attach(place.platform, CALLER, job.id, bad), lambda: delete(place, model)):
            with pytest.raises(RequestError):
                use()
        place.wait(lambda: evaluation(place, job.id).status == "failed")
        error = evaluation(place, job.id).error
        assert error is not None
        assert error.code == "grader_refuses_references"
        assert place.job(job.id).status == "succeeded"

        answered = result_written(place, job.id)
        evaluations.attach(place.platform, CALLER, job.id, bad)
        place.wait(lambda: evaluation(place, job.id).status == "failed")
        assert result_written(place, job.id) != answered, "the same question is looked into again"

        short = {"max_completion_tokens": 2}
        few = {"few_shot": None, "retrieval": None}
        evaluations.attach(place.platform, CALLER, job.id, request(place, arms=few, evaluation=short))
        found = verdict_of(place, job.id)
    assert {arm.arm for arm in report(place, job.id).arms} == {"prompt", "tuned", "majority", "nearest"}
    assert told(place, job.id)[-3:] == [
        f"The evaluation failed: {error.message}",
        "An evaluation was asked for",
        f"Verdict: {found.headline}",
    ]


def result_written(place: Place, job_id: str) -> int:
    return (study_dir(place, job_id) / "result.json").stat().st_mtime_ns


def delete(place: Place, model: str) -> None:
    models.delete(place.platform, CALLER, model)
