"""What validation says of a job's files, under OpenAI's codes, and what it writes for the trainer."""

import json
from pathlib import Path

import pytest
from sqlalchemy import text

from jobs.nursery import Nursery
from jobs.surviving import BASE, Place, make_place
from train.making import row
from tunewise import machine
from tunewise.contracts.fine_tuning import (
    Dpo,
    Hyperparameters,
    LoraRequest,
    Method,
    MethodType,
    Supervised,
    TrainingOptions,
)
from tunewise.contracts.jobs import ResolvedHyperparameters
from tunewise.contracts.run import BaseModelRef, DpoObjective, TrainSpec
from tunewise.errors import DataError
from tunewise.jobs.plan import expected
from tunewise.jobs.validate import Validated, validate
from tunewise.planning import DEFAULT_BETA

GOOD = [row(number) for number in range(12)]
LONG = json.dumps(
    {"messages": [{"role": "user", "content": "apple " * 2500}, {"role": "assistant", "content": "bread"}]}
)


@pytest.fixture
def place(tmp_path: Path, nursery: Nursery, tiny_model: BaseModelRef) -> Place:
    return make_place(tmp_path, nursery, tiny_model)


def validated(place: Place, job_id: str) -> Validated:
    return validate(place.platform, place.job(job_id), machine.probe)


@pytest.mark.parametrize(
    ("rows", "code", "words"),
    [
        (GOOD[:5], "invalid_n_examples", "Training file has 5 example(s), but must have at least 10 examples"),
        ([*GOOD, '{"messages": 3}'], "invalid_training_file", "line 13: "),
        ([*GOOD[:3], "not json", *GOOD[3:]], "invalid_training_file", "line 4: "),
        ([""], "invalid_file_format", "cannot be used: "),
    ],
)
def test_a_bad_training_file_is_refused(place: Place, rows: list[str], code: str, words: str) -> None:
    with pytest.raises(DataError) as refused:
        validated(place, place.submit(rows))
    assert (refused.value.code, refused.value.param) == (code, "training_file")
    assert words in refused.value.message


def test_a_bad_validation_file_is_named_as_such(place: Place) -> None:
    job_id = place.submit(GOOD, validation_file=place.add_file(["{}"]))
    with pytest.raises(DataError) as refused:
        validated(place, job_id)
    assert (refused.value.code, refused.value.param) == ("invalid_validation_file", "validation_file")


def test_auto_becomes_numbers_and_the_manifest_is_complete(place: Place) -> None:
    job_id = place.submit(GOOD, method=Method(), seed=7)
    found = validated(place, job_id)
    spec = TrainSpec.model_validate_json((place.run_dir(job_id) / "spec.json").read_bytes())
    assert found == Validated(ResolvedHyperparameters(n_epochs=8, batch_size=1, learning_rate_multiplier=1.0), ())
    assert (spec.n_epochs, spec.seed, spec.train_file.rows) == (8, 7, 12)
    assert spec.train_file.path == place.platform.files_dir / place.job(job_id).request.training_file
    planned = expected(place.run_dir(job_id))
    assert planned.seconds > 0
    assert planned.memory_bytes > planned.least_memory_bytes > 0


def pair(number: int) -> str:
    return json.dumps(
        {
            "input": {"messages": [{"role": "user", "content": f"How much is {number} times ten?"}]},
            "preferred_output": [{"role": "assistant", "content": f"It is {number}0."}],
            "non_preferred_output": [{"role": "assistant", "content": "Who knows."}],
        }
    )


PAIRS = [pair(number) for number in range(12)]
MISFITS: list[tuple[MethodType, list[str], str]] = [
    ("supervised", PAIRS, "ask for the method dpo or orpo"),
    ("dpo", GOOD, "ask for the method supervised"),
    ("orpo", GOOD, "the method orpo trains on preference pairs"),
]


@pytest.mark.parametrize(("kind", "rows", "words"), MISFITS)
def test_rows_that_the_method_does_not_train_on_are_refused(
    place: Place, kind: MethodType, rows: list[str], words: str
) -> None:
    with pytest.raises(DataError, match=words) as refused:
        validated(place, place.submit(rows, method=Method(type=kind)))
    assert (refused.value.code, refused.value.param) == ("invalid_file_format", "training_file")


def test_a_validation_file_of_other_rows_is_named_as_such(place: Place) -> None:
    job_id = place.submit(PAIRS, method=Method(type="dpo"), validation_file=place.add_file(GOOD))
    with pytest.raises(DataError, match="holds conversations") as refused:
        validated(place, job_id)
    assert (refused.value.code, refused.value.param) == ("invalid_file_format", "validation_file")


def test_the_manifest_of_a_preference_job_has_its_objective_and_options(place: Place) -> None:
    options = TrainingOptions(lora=LoraRequest(rank=4, dora=True), schedule="cosine", trackers=("tensorboard",))
    method = Method(dpo=Dpo(loss="ipo"), type="dpo")
    job_id = place.submit(PAIRS, method=method, training=options, validation_file=place.add_file(PAIRS))
    assert validated(place, job_id).hyperparameters.beta == DEFAULT_BETA
    spec = TrainSpec.model_validate_json((place.run_dir(job_id) / "spec.json").read_bytes())
    assert spec.objective == DpoObjective(beta=DEFAULT_BETA, loss="ipo")
    assert (spec.lora.rank, spec.lora.dora, spec.schedule, spec.trackers) == (4, True, "cosine", ("tensorboard",))


def test_a_job_that_an_older_version_has_kept_means_what_it_meant(place: Place) -> None:
    hyperparameters = {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": "auto"}
    kept = {
        "model": BASE,
        "base": BASE,
        "parent": None,
        "training_file": "file-1",
        "validation_file": None,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "seed": 1,
        "suffix": None,
        "metadata": None,
        "integrations": None,
        "training_type": None,
    }
    job_id = place.submit(GOOD)
    with place.platform.database.write() as session:
        session.execute(text("UPDATE jobs SET request = :kept"), {"kept": json.dumps(kept)})
    request = place.job(job_id).request
    assert request.method == Method(supervised=Supervised(hyperparameters=Hyperparameters(n_epochs=2)))
    assert request.training == TrainingOptions()


def test_overlong_rows_are_cut_and_told_by_line(place: Place) -> None:
    found = validated(place, place.submit([*GOOD, LONG]))
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith("1 row(s) of training file file-")
    assert found.warnings[0].endswith("are longer than 2048 tokens and are cut at the end: line(s) 13")


def test_overlong_rows_are_an_error_where_the_setting_says_so(
    tmp_path: Path, nursery: Nursery, tiny_model: BaseModelRef
) -> None:
    place = make_place(tmp_path, nursery, tiny_model, overlong="error")
    with pytest.raises(DataError, match=r"line 13: the row is .* tokens long") as refused:
        validated(place, place.submit([*GOOD, LONG]))
    assert refused.value.code == "invalid_training_file"


def test_of_a_table_the_rows_that_were_made_of_it_are_checked_and_trained_on(place: Place) -> None:
    file_id = place.add_file(["prompt,completion", "a table,that was uploaded"])
    place.platform.rows_copy(file_id).write_text("".join(f"{line}\n" for line in GOOD))
    job_id = place.submit(GOOD, validation_file=file_id)
    validated(place, job_id)
    spec = TrainSpec.model_validate_json((place.run_dir(job_id) / "spec.json").read_bytes())
    assert spec.valid_file is not None
    assert (spec.valid_file.path, spec.valid_file.rows) == (place.platform.rows_copy(file_id), len(GOOD))
