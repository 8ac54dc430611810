"""Fine-tuning jobs through the real SDK, every answer validated strictly; the worker's part is put into the store."""

from pathlib import Path
from typing import Any

import openai
import pytest

from api.live import BASE, ROW, Live, serving
from tunewise.contracts.run import RunEvent, StepMetrics
from tunewise.store import events, jobs


@pytest.fixture(scope="module")
def file(live: Live) -> str:
    with live.client() as client:
        return client.files.create(file=("train.jsonl", ROW * 12), purpose="fine-tune").id


def test_a_job_is_created_with_every_parameter(client: openai.OpenAI, file: str) -> None:
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=file,
        validation_file=file,
        suffix="recipe-ner",
        seed=105,
        metadata={"team": "a"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 0.5}},
        },
    )
    assert (job.status, job.model, job.seed, job.metadata) == ("validating_files", BASE, 105, {"team": "a"})
    assert (job.training_file, job.validation_file, job.result_files, job.error) == (file, file, [], None)
    assert job.hyperparameters.model_dump() == {
        "n_epochs": 2,
        "batch_size": "auto",
        "learning_rate_multiplier": 0.5,
    }
    assert job.method
    assert job.method.supervised
    assert client.fine_tuning.jobs.retrieve(job.id) == job


def test_of_a_preference_job_beta_is_told_as_auto_until_it_is_resolved_and_its_options_as_asked(
    live: Live, client: openai.OpenAI, file: str
) -> None:
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=file,
        method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2}}},
        extra_body={"training": {"lora": {"rank": 4}, "schedule": "cosine"}},
    )
    auto = {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": "auto", "beta": "auto"}
    assert job.hyperparameters.model_dump() == auto
    assert job.method
    assert job.method.model_dump(exclude_unset=True) == {
        "type": "dpo",
        "dpo": {"hyperparameters": auto, "loss": "sigmoid"},
    }
    assert job.model_extra
    assert (job.model_extra["training"]["lora"]["rank"], job.model_extra["training"]["schedule"]) == (4, "cosine")
    numbers = {"n_epochs": 2, "batch_size": 1, "learning_rate_multiplier": 1.0, "beta": 0.1}
    with live.platform.database.write() as session:
        jobs.transition(session, job.id, "queued", hyperparameters=numbers)
    resolved = client.fine_tuning.jobs.retrieve(job.id)
    assert resolved.hyperparameters.model_dump() == numbers
    assert resolved.method
    assert resolved.method.dpo
    assert resolved.method.dpo.hyperparameters
    assert resolved.method.dpo.hyperparameters.model_dump() == numbers


@pytest.mark.parametrize("kind", ["orpo", "kto", "pretraining"])
def test_methods_of_our_own_are_told_as_they_were_asked_for(live: Live, file: str, kind: str) -> None:
    body = {"model": BASE, "training_file": file, "method": {"type": kind, kind: {"hyperparameters": None}}}
    told = live.http.post("/v1/fine_tuning/jobs", json=body).json()["method"]
    assert set(told) == {"type", kind}
    assert told[kind]["hyperparameters"]["n_epochs"] == "auto"


def test_the_deprecated_hyperparameters_are_those_of_the_method(client: openai.OpenAI, file: str) -> None:
    job = client.fine_tuning.jobs.create(model=BASE, training_file=file, hyperparameters={"n_epochs": 4})
    assert job.hyperparameters.n_epochs == 4
    assert job.seed >= 0


def test_an_alias_is_resolved(tmp_path: Path) -> None:
    with serving(tmp_path, aliases={"gpt-4o-mini": BASE}) as live, live.client(organization="<org id>") as client:
        training_file = client.files.create(file=("a.jsonl", ROW * 12), purpose="fine-tune").id
        job = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=training_file)
        assert (job.model, job.organization_id) == (BASE, "org-id")
        assert {model.id for model in client.models.list()} >= {BASE, "gpt-4o-mini"}
        assert client.models.retrieve("gpt-4o-mini").owned_by == "system"


def wandb(**fields: object) -> dict[str, Any]:
    return {"integrations": [{"type": "wandb", "wandb": {"project": "p"} | fields}]}


def dpo(**hyperparameters: object) -> dict[str, Any]:
    return {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}}


EARLY = "early_stopping_needs_validation"
REFUSED: list[tuple[dict[str, Any], str, str | None]] = [
    ({"training_file": "file-none"}, "invalid_file", "training_file"),
    ({"method": {"type": "reinforcement"}}, "unsupported_method", "method.type"),
    ({"method": {"type": "magic"}}, "invalid_value", "method.type"),
    ({"method": {"type": "supervised", "dpo": {}}}, "conflicting_parameters", "method.dpo"),
    ({"method": {"type": "dpo", "reinforcement": {}}}, "conflicting_parameters", "method.reinforcement"),
    ({"method": {"dpo": {}}}, "missing_required_parameter", "method.type"),
    ({"method": dpo(beta=0)}, "invalid_value", "method.dpo.hyperparameters.beta"),
    ({"method": dpo(beta=2.1)}, "invalid_value", "method.dpo.hyperparameters.beta"),
    ({"method": dpo(beta="much")}, "invalid_value", "method.dpo.hyperparameters.beta"),
    ({"method": dpo(gamma=1)}, "unknown_parameter", "method.dpo.hyperparameters.gamma"),
    ({"method": {"type": "dpo", "dpo": {"loss": "hinge"}}}, "invalid_value", "method.dpo.loss"),
    ({"method": {"type": "kto", "kto": {"desirable_weight": 0}}}, "invalid_value", "method.kto.desirable_weight"),
    ({"method": dpo(n_epochs=2), "hyperparameters": {"n_epochs": 3}}, "conflicting_parameters", "hyperparameters"),
    ({"hyperparameters": {"beta": 0.2}}, "unknown_parameter", "hyperparameters.beta"),
    (
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"beta": 0.2}}}},
        "unknown_parameter",
        "method.supervised.hyperparameters.beta",
    ),
    (
        {"method": {"type": "supervised", "supervised": {"label_smoothing": 1}}},
        "invalid_value",
        "method.supervised.label_smoothing",
    ),
    ({"training": {"lorra": {}}}, "unknown_parameter", "training.lorra"),
    ({"training": {"lora": {"rank": 0}}}, "invalid_value", "training.lora.rank"),
    ({"training": {"lora": {"r": 8}}}, "unknown_parameter", "training.lora.r"),
    ({"training": {"lora": {"targets": ["q;rm"]}}}, "invalid_value", "training.lora.targets"),
    ({"training": {"weights": "half"}}, "invalid_value", "training.weights"),
    ({"training": {"trackers": ["neptune"]}}, "invalid_value", "training.trackers.0"),
    ({"training": {"seed": 1}}, "unknown_parameter", "training.seed"),
    ({"training": {"early_stopping_patience": 1}}, EARLY, "training.early_stopping_patience"),
    ({"training": {"weights": "full", "lora": {"rank": 8}}}, "conflicting_parameters", "training.lora"),
    ({"training": {"sharding": "fsdp"}}, "conflicting_parameters", "training.sharding"),
    ({"training": {"parent_use": "stack"}}, "conflicting_parameters", "training.parent_use"),
    ({"n_epochs": 3}, "unknown_parameter", "n_epochs"),
    (
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"epochs": 3}}}},
        "unknown_parameter",
        "method.supervised.hyperparameters.epochs",
    ),
    ({"hyperparameters": {"n_epochs": 51}}, "invalid_value", "hyperparameters.n_epochs"),
    ({"hyperparameters": {"learning_rate_multiplier": 0}}, "invalid_value", "hyperparameters.learning_rate_multiplier"),
    ({"hyperparameters": {"batch_size": "many"}}, "invalid_value", "hyperparameters.batch_size"),
    ({"suffix": "x" * 65}, "invalid_value", "suffix"),
    ({"suffix": "a:b"}, "invalid_value", "suffix"),
    ({"seed": -1}, "invalid_value", "seed"),
    ({"metadata": {"k" * 65: "v"}}, "invalid_value", "metadata." + "k" * 65),
    ({"metadata": {"k": "v" * 513}}, "invalid_value", "metadata.k"),
    ({"metadata": {str(n): "v" for n in range(17)}}, "invalid_value", "metadata"),
    ({"metadata": {"k": 1}}, "invalid_value", "metadata.k"),
    ({"metadata": {"k": "\0"}}, "invalid_value", "metadata.k"),
    ({"model": None}, "invalid_value", "model"),
    ({"integrations": [{"type": "mlflow"}]}, "invalid_value", "integrations.0.type"),
    (wandb(project=None), "invalid_value", "integrations.0.wandb.project"),
    (wandb(project="a/b"), "invalid_value", "integrations.0.wandb.project"),
    (wandb(project="p" * 129), "invalid_value", "integrations.0.wandb.project"),
    (wandb(name="\0"), "invalid_value", "integrations.0.wandb.name"),
    (wandb(entity="a/b"), "invalid_value", "integrations.0.wandb.entity"),
    (wandb(tags=["t" * 65]), "invalid_value", "integrations.0.wandb.tags.0"),
    (wandb(tags=["t"] * 51), "invalid_value", "integrations.0.wandb.tags"),
    (wandb(key="secret"), "unknown_parameter", "integrations.0.wandb.key"),
    ({"integrations": [{"type": "wandb", "wandb": {}}]}, "missing_required_parameter", "integrations.0.wandb.project"),
    ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}] * 6}, "invalid_value", "integrations"),
]


@pytest.mark.parametrize(("change", "code", "param"), REFUSED)
def test_a_wrong_job_is_refused_by_its_field(
    live: Live, file: str, change: dict[str, Any], code: str, param: str | None
) -> None:
    body = {"model": BASE, "training_file": file} | change
    answer = live.http.post("/v1/fine_tuning/jobs", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert answer.headers["x-should-retry"] == "false"
    assert set(error) == {"message", "type", "param", "code"}


SAID: list[tuple[dict[str, Any], str]] = [
    ({"method": dpo(beta=2.1)}, "method.dpo.hyperparameters.beta: Input should be 'auto'; or "),
    ({"method": {"type": "reinforcement"}}, "choose one of supervised, dpo, orpo, kto, pretraining"),
    ({"method": {"type": "orpo", "kto": {}}}, "method.kto: the method's type is 'orpo'; leave kto out"),
    ({"training": {"lorra": {}}}, "Unrecognized request argument supplied: training.lorra; leave it out"),
    ({"training": {"weights": "full", "lora": {"rank": 8}}}, "leave lora out, or choose weights 'lora'"),
    ({"training": {"trackers": ["mlflow"]}}, "pip install 'tunewise[mlflow]'"),
]


@pytest.mark.parametrize(("change", "words"), SAID)
def test_a_refusal_says_what_to_do(
    live: Live, file: str, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr("tunewise.jobs.conflicts.missing_packages", lambda *names: list(names))
    answer = live.http.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file} | change)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


def test_an_unknown_model_is_told_which_there_are(client: openai.OpenAI, file: str) -> None:
    with pytest.raises(openai.NotFoundError, match=BASE) as refused:
        client.fine_tuning.jobs.create(model="gpt-9", training_file=file)
    assert refused.value.code == "model_not_found"


def test_wandb_is_refused_by_name_where_its_package_is_missing(
    client: openai.OpenAI, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunewise.jobs.integrations.PACKAGE", "a_package_that_is_not_here")
    with pytest.raises(openai.BadRequestError, match=r"pip install 'tunewise\[wandb\]'") as refused:
        client.fine_tuning.jobs.create(
            model=BASE, training_file=file, integrations=[{"type": "wandb", "wandb": {"project": "p"}}]
        )
    assert refused.value.code == "integration_unavailable"


def test_wandb_comes_back_with_the_run_that_it_will_be(client: openai.OpenAI, live: Live, file: str) -> None:
    asked: Any = {"project": "p", "name": "n", "entity": "e", "tags": ["a", "b"]}
    integrations: Any = [{"type": "wandb", "wandb": asked}, {"type": "wandb", "wandb": {"project": "q"}}]
    job = client.fine_tuning.jobs.create(model=BASE, training_file=file, integrations=integrations)
    assert job.integrations
    first, second = (integration.wandb.model_dump() for integration in job.integrations)
    assert first == asked | {"run_id": job.id.removeprefix("ftjob-")}
    assert second == {
        "project": "q",
        "name": None,
        "entity": None,
        "tags": [],
        "run_id": f"{job.id.removeprefix('ftjob-')}-2",
    }
    azure = live.http.get(f"/openai/v1/fine_tuning/jobs/{job.id}").json()
    assert [integration["wandb"] for integration in azure["integrations"]] == [first, second]


def test_jobs_are_listed_newest_first_and_by_metadata(tmp_path: Path) -> None:
    with serving(tmp_path) as live, live.client() as client:
        training_file = client.files.create(file=("a.jsonl", ROW * 12), purpose="fine-tune").id
        create = client.fine_tuning.jobs.create
        plain = create(model=BASE, training_file=training_file).id
        tagged = create(model=BASE, training_file=training_file, metadata={"team": "a", "x y": ""}).id
        assert [job.id for job in client.fine_tuning.jobs.list(limit=1)] == [tagged, plain]
        assert [job.id for job in client.fine_tuning.jobs.list(metadata={"team": "a"})] == [tagged]
        assert [job.id for job in client.fine_tuning.jobs.list(extra_query={"metadata[x y]": ""})] == [tagged]
        assert list(client.fine_tuning.jobs.list(metadata={"team": "b"})) == []
        assert [job.id for job in client.fine_tuning.jobs.list(extra_query={"metadata": "null"})] == [plain]
        first = client.fine_tuning.jobs.list(limit=1)
        assert first.has_more
        assert not client.fine_tuning.jobs.list(limit=1, after=first.data[0].id).has_more


def test_a_job_is_paused_resumed_and_cancelled(client: openai.OpenAI, live: Live) -> None:
    job = live.job(status="running")
    assert client.fine_tuning.jobs.pause(job.id).status == "queued"
    paused = live.http.get(f"/v1/fine_tuning/jobs/{job.id}").json()
    assert paused["paused"] is True
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    assert live.http.get(f"/v1/fine_tuning/jobs/{job.id}").json()["paused"] is False
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    for move in (client.fine_tuning.jobs.pause, client.fine_tuning.jobs.resume, client.fine_tuning.jobs.cancel):
        with pytest.raises(openai.BadRequestError) as refused:
            move(job.id)
        assert refused.value.code == "invalid_state"
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
    assert messages == [
        "The job was cancelled",
        "The job was resumed",
        "The job was paused",
        f"Created fine-tuning job: {job.id}",
    ]


def test_the_services_own_word_for_paused_is_sent_where_the_settings_say_so(tmp_path: Path) -> None:
    with serving(tmp_path, service_statuses=True) as live:
        job = live.job()
        assert live.http.post(f"/v1/fine_tuning/jobs/{job.id}/pause").json()["status"] == "paused"


def test_a_finished_job_parses_with_all_that_it_holds(client: openai.OpenAI, live: Live) -> None:
    done, failed = live.job(status="running"), live.job(status="running")
    numbers = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.5}
    error = {"code": "invalid_n_examples", "message": "too few", "param": "training_file"}
    with live.platform.database.write() as session:
        jobs.transition(
            session,
            done.id,
            "succeeded",
            hyperparameters=numbers,
            fine_tuned_model="ft:x",
            trained_tokens=9,
            result_file="file-r",
        )
        jobs.transition(session, failed.id, "failed", error=error)
    job = client.fine_tuning.jobs.retrieve(done.id)
    assert (job.status, job.trained_tokens, job.result_files) == ("succeeded", 9, ["file-r"])
    assert job.hyperparameters.model_dump() == numbers
    assert job.finished_at
    failure = client.fine_tuning.jobs.retrieve(failed.id).error
    assert failure
    assert failure.model_dump() == error


def test_events_are_newest_first_with_the_numbers_of_each_step(client: openai.OpenAI, live: Live) -> None:
    job = live.job()
    step = StepMetrics(
        step=1, total_steps=2, train_loss=0.5, train_mean_token_accuracy=0.5, tokens=1, seconds=1, valid_loss=None
    )
    journal = [
        RunEvent(seq=n, created_at=n, level="info", type="metrics", message=f"Step {n}", data=step)
        for n in range(1, 30)
    ]
    with live.platform.database.write() as session:
        events.copy(session, job.id, journal)
    page = client.fine_tuning.jobs.list_events(job.id)
    assert ([event.message for event in page.data], page.has_more) == ([f"Step {n}" for n in range(29, 9, -1)], True)
    assert page.data[0].data == {
        "step": 1,
        "total_steps": 2,
        "train_loss": 0.5,
        "train_mean_token_accuracy": 0.5,
        "valid_loss": None,
        "valid_mean_token_accuracy": None,
        "full_valid_loss": None,
        "full_valid_mean_token_accuracy": None,
    }
    assert len(list(client.fine_tuning.jobs.list_events(job.id, limit=7))) == 30


def test_checkpoints_are_listed_newest_first_without_the_final_model(client: openai.OpenAI, live: Live) -> None:
    job = live.job()
    made = [live.model(job, step=step) for step in (10, 20)]
    live.model(job, step=30, is_final=True)
    page = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert [checkpoint.fine_tuned_model_checkpoint for checkpoint in page.data] == [made[1].name, made[0].name]
    assert page.data[0].metrics.train_loss == 0.5
