"""What a caller has: where a model comes from, what hangs on it, its rows as examples, and its way out as a zip."""

import json
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tunewise.catalogue import DEFAULT_MODEL
from tunewise.contracts.chat import Message, SystemMessage, UserMessage
from tunewise.contracts.jobs import Caller, Job, JobRequest, Permission, StoredFile, TunedModel
from tunewise.data.formats import read_examples
from tunewise.errors import RequestError
from tunewise.evaluate.arms import choose_examples, few_shot_messages
from tunewise.evaluate.rows import EvalRow
from tunewise.jobs import deployments, exports, few_shot, files
from tunewise.jobs.deployments import Wanted
from tunewise.jobs.incoming import Receiver
from tunewise.jobs.inventory import inventory, lineage
from tunewise.jobs.platform import Platform, open_platform
from tunewise.settings import Settings, get_settings
from tunewise.store import jobs, models

OWNER = Caller(organization="o", project="p", role="admin")
FRIEND = Caller(organization="o", project="q", role="admin")
ROWS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"question {number}"},
            {"role": "assistant", "content": f"answer {number}"},
        ]
    }
    for number in range(8)
]


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = open_platform(Settings(home=get_settings().home, state=tmp_path / "state"))
    yield platform
    platform.database.close()


def add_file(platform: Platform) -> StoredFile:
    receiver = Receiver(platform, "train.jsonl")
    receiver.write("".join(f"{json.dumps(row)}\n" for row in ROWS).encode())
    file = files.create(platform, OWNER, receiver.finish(), purpose="fine-tune")
    receiver.discard()
    return file


def tuned(platform: Platform) -> TunedModel:
    """A checkpoint and the model after it, granted to the friend."""
    file = add_file(platform)
    request = JobRequest(model=DEFAULT_MODEL, base=DEFAULT_MODEL, training_file=file.id, seed=1, suffix="mine")
    job = Job(id="ftjob-1", project="p", organization="o", request=request, status="succeeded", created_at=1)
    name = f"ft:{DEFAULT_MODEL}:o:mine:abc"
    made = [
        TunedModel(
            id=f"ftckpt_{step}",
            name=name + end,
            azure_name=f"{DEFAULT_MODEL}.ft-1-mine{end}",
            project="p",
            organization="o",
            job_id=job.id,
            base=DEFAULT_MODEL,
            step=step,
            is_final=not end,
            adapter=f"runs/ftjob-1/{step}",
            metrics={},
            created_at=step,
        )
        for step, end in ((1, ":ckpt-step-1"), (2, ""))
    ]
    with platform.database.write() as session:
        jobs.add(session, job)
        for model in made:
            models.add(session, model)
        models.grant(session, Permission(id="cp_1", model=name, project="q", created_at=1))
    return made[1]


def write_adapter(platform: Platform, model: TunedModel, weights: int) -> Path:
    directory = platform.settings.state_dir / model.adapter
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text('{"r": 8}')
    with (directory / "adapter_model.safetensors").open("wb") as file:
        file.truncate(weights)
    (directory / "optimizer.safetensors").write_bytes(b"not for others")
    (directory / "parity.json").write_bytes(b"tokens of the owner")
    return directory


def test_a_model_s_lineage_runs_from_its_data_to_its_deployments(platform: Platform) -> None:
    model = tuned(platform)
    deployments.put(platform, OWNER, Wanted("owl", "s/g/a", model.name))
    write_adapter(platform, model, 1000)
    found = lineage(platform, OWNER, model.id)
    assert found.training_file is not None
    assert (found.training_file.filename, found.job and found.job.id) == ("train.jsonl", "ftjob-1")
    assert [one.step for one in found.siblings] == [1]
    assert [one.name for one in found.deployments] == ["owl"]
    assert (found.is_own, found.shared_with, found.adapter_bytes > 1000) == (True, 1, True)
    assert [one.name for one in inventory(platform, OWNER).deployments] == ["owl"]


def test_whom_a_model_was_granted_learns_nothing_of_its_data(platform: Platform) -> None:
    model = tuned(platform)
    found = lineage(platform, FRIEND, model.name)
    assert (found.is_own, found.job, found.training_file, found.siblings, found.shared_with) == (
        False,
        None,
        None,
        [],
        0,
    )
    with pytest.raises(RequestError) as refused:
        few_shot.training_rows(platform, FRIEND, model.name, 2)
    assert refused.value.code == "no_training_file"


@pytest.mark.parametrize("name", [DEFAULT_MODEL, "nothing"])
def test_a_base_model_has_no_lineage(platform: Platform, name: str) -> None:
    with pytest.raises(RequestError) as refused:
        lineage(platform, OWNER, name)
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize("system", [None, "Be brief.", "Be long."])
def test_the_prompt_with_examples_is_the_one_that_evaluations_ask(platform: Platform, system: str | None) -> None:
    model = tuned(platform)
    shown = few_shot.training_rows(platform, OWNER, model.name, 3)
    assert (shown.base, shown.system, len(shown.examples)) == (DEFAULT_MODEL, "Be brief.", 3)
    conversation: list[Any] = [{"role": "system", "content": system}] if system else []
    conversation.append({"role": "user", "content": "mine"})
    file = lineage(platform, OWNER, model.name).training_file
    assert file is not None
    rows = [example for _, example in read_examples(platform.files_dir / file.id)]
    asked: list[Message] = [SystemMessage(system)] if system else []
    asked.append(UserMessage("mine"))
    wanted = few_shot_messages(EvalRow(0, tuple(asked), None, "", {}), choose_examples(rows, 3, seed=few_shot.SEED))
    made = few_shot.with_examples(conversation, shown.examples)
    assert [(one["role"], one["content"]) for one in made] == [
        (one.__struct_config__.tag, one.content) for one in wanted
    ]
    assert all(set(one) == {"role", "content"} for one in made)


def test_an_export_is_what_peft_loads_and_takes_constant_memory(platform: Platform, tmp_path: Path) -> None:
    model = tuned(platform)
    directory = write_adapter(platform, model, 64 * exports.CHUNK_BYTES)
    export = exports.export(platform, OWNER, model.id, "adapter")
    target = tmp_path / export.filename
    tracemalloc.start()
    with target.open("wb") as file:
        for chunk in export.chunks:
            file.write(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * exports.CHUNK_BYTES
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        folder = export.filename.removesuffix(".zip")
        assert archive.namelist() == [f"{folder}/adapter_config.json", f"{folder}/adapter_model.safetensors"]
        assert archive.read(f"{folder}/adapter_config.json") == (directory / "adapter_config.json").read_bytes()


def test_an_export_that_cannot_be_made_is_refused_before_it_is_sent(platform: Platform) -> None:
    model = tuned(platform)
    with pytest.raises(RequestError) as refused:
        exports.export(platform, OWNER, model.id, "adapter")
    assert refused.value.code == "model_unavailable"
    with pytest.raises(RequestError, match="'papyrus' is none of adapter"):
        exports.export(platform, OWNER, model.id, "papyrus")


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a/b"])
def test_a_deployment_s_name_is_one_that_a_path_can_hold(platform: Platform, name: str) -> None:
    with pytest.raises(RequestError) as refused:
        deployments.put(platform, OWNER, Wanted(name, "s/g/a", DEFAULT_MODEL))
    assert refused.value.code == "invalid_name"
