"""A model whose every weight was tuned is hosted, evaluated, exported, tuned further and deleted like any other."""

import asyncio
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from jobs.nursery import Nursery, ServerSpawner
from jobs.surviving import PROJECT, Place, make_place, working
from serve.running import peft_warnings
from train.making import row
from tunewise.contracts.fine_tuning import Hyperparameters, LoraRequest, Method, Supervised, TrainingOptions
from tunewise.contracts.jobs import Caller, TunedModel
from tunewise.contracts.run import BaseModelRef, TrainSpec
from tunewise.data.template import Template
from tunewise.errors import RequestError
from tunewise.jobs import exports, models
from tunewise.jobs.hosting import Hosting
from tunewise.jobs.names import Resolved

FULL = TrainingOptions(weights="full")
CALLER = Caller(organization="org", project=PROJECT, role="admin")
PROMPT = "List 3: kale jam"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, tiny_model: BaseModelRef) -> Place:
    return make_place(tmp_path_factory.mktemp("whole"), nursery, tiny_model)


def trained(place: Place, n_epochs: int = 1, **changes: Any) -> TunedModel:  # noqa: ANN401
    # A rate at which the tiny model's answers soon change.
    hyperparameters = Hyperparameters(n_epochs=n_epochs, batch_size=2, learning_rate_multiplier=100)
    method = Method(supervised=Supervised(hyperparameters=hyperparameters))
    job_id = place.submit([row(number) for number in range(12)], method=method, **changes)
    with working(place):
        job = place.wait_for(job_id, "succeeded", "failed")
        assert job.status == "succeeded", place.story()
        place.wait_until_released(job_id)
    return place.models(job_id)[-1]


@pytest.fixture(scope="module")
def model(place: Place) -> TunedModel:
    return trained(place, n_epochs=3, training=FULL)


def spec_of(place: Place, model: TunedModel) -> TrainSpec:
    return TrainSpec.model_validate_json((place.run_dir(model.job_id) / "spec.json").read_bytes())


def answers(place: Place, nursery: Nursery, asked: list[Resolved]) -> list[str]:
    """What each answers through hosting; every server is gone afterwards."""

    async def ask() -> list[str]:
        hosting, found = Hosting(place.platform, ServerSpawner(nursery.address)), []
        async with hosting.running():
            for one in asked:
                async with hosting.hosted(one) as hosted:
                    body = {"model": hosted.name, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
                    reply = await hosting.client.post(f"{hosted.server.base_url}/completions", json=body)
                assert reply.status_code == 200, reply.text
                found.append(str(reply.json()["choices"][0]["text"]))
        return found

    return asyncio.run(ask())


def written(model: Any, directory: Path) -> str:  # noqa: ANN401
    """What transformers writes."""
    template = Template.load(directory)
    ids = torch.tensor([template.encode(PROMPT)])
    with torch.inference_mode():
        out = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False, attention_mask=torch.ones_like(ids))
    return template.decode(out[0, ids.shape[1] :].tolist())


def test_its_checkpoints_are_models_too(place: Place, model: TunedModel) -> None:
    made = place.models(model.job_id)
    assert [one.step for one in made] == [6, 12, 18]
    for one in made:
        directory = place.platform.settings.state_dir / one.adapter
        assert (directory / "model.safetensors").is_file()
        assert not (directory / "optimizer.safetensors").exists()


def test_it_is_hosted_by_its_name_with_the_weights_that_were_trained(
    place: Place, model: TunedModel, nursery: Nursery
) -> None:
    base, tuned, checkpoint = Resolved(model.base, None), Resolved(model.base, model), place.models(model.job_id)[0]
    found = answers(place, nursery, [base, tuned, Resolved(model.base, checkpoint)])
    directory = place.platform.settings.state_dir / model.adapter
    assert found[1] == written(AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32), directory)
    assert len(set(found)) > 1


def test_it_is_exported_as_a_model_and_not_as_an_adapter(place: Place, model: TunedModel) -> None:
    made = exports.export(place.platform, CALLER, model.name, "model")
    with zipfile.ZipFile(io.BytesIO(b"".join(made.chunks))) as archive:
        names = {Path(name).name for name in archive.namelist()}
    assert names >= {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "README.md"}
    with pytest.raises(RequestError, match="ask for 'model'"):
        exports.export(place.platform, CALLER, model.name, "adapter")


def test_tuned_further_it_is_the_base_of_what_comes_also_of_an_adapter(
    place: Place, model: TunedModel, nursery: Nursery
) -> None:
    whole = trained(place, parent=model.name, training=FULL)
    adapter = trained(place, parent=model.name, training=TrainingOptions(lora=LoraRequest(rank=4)))
    onward = trained(place, parent=adapter.name)
    for one in (whole, adapter, onward):
        spec = spec_of(place, one)
        assert spec.base_model.path == (place.run_dir(one.job_id) / "base").resolve()
        assert (spec.parent is None) == (one is not onward)
    assert spec_of(place, onward).lora.rank == 4
    found = answers(place, nursery, [Resolved(one.base, one) for one in (adapter, onward)])
    for one, text in zip((adapter, onward), found, strict=True):
        base = AutoModelForCausalLM.from_pretrained(spec_of(place, one).base_model.path, dtype=torch.float32)
        with peft_warnings():
            tuned = PeftModel.from_pretrained(base, str(place.platform.settings.state_dir / one.adapter))
        assert text == written(tuned, spec_of(place, one).base_model.path)


def test_deleted_its_weights_are_gone_and_those_tuned_from_it_stay(place: Place, nursery: Nursery) -> None:
    doomed = trained(place, training=FULL)
    child = trained(place, parent=doomed.name)
    models.delete(place.platform, CALLER, doomed.name)
    assert not (place.platform.settings.state_dir / doomed.adapter).exists()
    assert answers(place, nursery, [Resolved(child.base, child)])
