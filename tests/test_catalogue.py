"""Finding base models: what a name can be, and what each wrong one gets."""

import json
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from tunewise import catalogue
from tunewise.catalogue import DEFAULT_MODEL, find, known, locate, names_here
from tunewise.contracts.run import BaseModelRef
from tunewise.errors import ModelError
from tunewise.settings import Settings, get_settings


@pytest.fixture
def model_dir(tiny_model: BaseModelRef, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return shutil.copytree(tiny_model.path, tmp_path / "model")


def test_a_directory_is_used_in_place(tiny_model: BaseModelRef) -> None:
    assert tiny_model.path == Path(tiny_model.name)
    assert tiny_model.context_length == 2048


def test_longrope_is_used_up_to_where_its_frequencies_change(family_model: Callable[[str], BaseModelRef]) -> None:
    assert family_model("phi4").context_length == 512


def test_parameters_are_those_that_torch_counts(tiny_model: BaseModelRef) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model.path)
    assert tiny_model.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_tied_output_layer_is_counted_once(tmp_path: Path, model_dir: Path, settings: Settings) -> None:
    embedding = torch.zeros(10, 4)
    save_file(
        {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding.clone()}, model_dir / "model.safetensors"
    )
    assert find(str(model_dir), settings).parameters == 40
    edit_json(model_dir / "config.json", tie_word_embeddings=False)
    assert find(str(model_dir), settings).parameters == 80


def test_weights_in_several_files_are_added_up(model_dir: Path, settings: Settings) -> None:
    before = find(str(model_dir), settings)
    save_file({"more": torch.zeros(3, 5)}, model_dir / "model-00002.safetensors")
    after = find(str(model_dir), settings)
    assert after.parameters == before.parameters + 15


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_the_revision_changes_with_any_file_that_decides_answers(
    model_dir: Path, settings: Settings, file: str
) -> None:
    before = find(str(model_dir), settings)
    text = (model_dir / file).read_bytes()
    changed = text[:-1] + bytes([text[-1] ^ 1]) if file.endswith("safetensors") else text + b" "
    (model_dir / file).write_bytes(changed)
    assert find(str(model_dir), settings).revision != before.revision


def test_the_revision_does_not_depend_on_the_place(
    tiny_model: BaseModelRef, model_dir: Path, settings: Settings
) -> None:
    assert find(str(model_dir), settings).revision == tiny_model.revision


def test_the_default_model_is_found_at_once(smollm2: BaseModelRef) -> None:
    began = time.perf_counter()
    assert find(DEFAULT_MODEL.upper(), get_settings()) == smollm2
    assert time.perf_counter() - began < 1.0


def test_a_name_is_located_without_any_work(settings: Settings) -> None:
    assert not locate(DEFAULT_MODEL, settings).is_ready
    assert locate("some/model@v2", settings).directory == settings.models_dir / "hub--some--model@v2"
    assert not settings.models_dir.exists()


def test_known_lists_what_was_pulled(tiny_model: BaseModelRef, settings: Settings) -> None:
    shutil.copytree(tiny_model.path, settings.models_dir / "hub--some--model")
    listing = known(settings)[-1]
    assert (listing.name, listing.state, listing.parameters) == ("some/model", "ready", tiny_model.parameters)
    assert names_here(settings) == [DEFAULT_MODEL, "some/model"]
    assert [one.name for one in known(settings)] == [DEFAULT_MODEL, "gemma-3-270m", "some/model"]


@pytest.mark.parametrize("name", ["no-such-model", "./missing", "missing.gguf", "a/b/c", ""])
def test_an_unknown_name_lists_what_there_is(settings: Settings, name: str) -> None:
    with pytest.raises(ModelError, match=DEFAULT_MODEL) as raised:
        find(name, settings)
    assert raised.value.code == "unknown_model"


def test_a_package_that_is_not_installed_is_named_with_its_command(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = catalogue.CATALOGUE[0]._replace(
        name="absent-model", modules=("no_such_module_at_all",), packages=("absent==1",)
    )
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry,))
    with pytest.raises(ModelError, match="pip install --no-deps absent==1") as raised:
        find("absent-model", settings)
    assert raised.value.code == "model_not_installed"
    assert [listing.state for listing in known(settings)] == ["absent"]
    assert names_here(settings) == []


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without(*names: str) -> Callable[[Path], None]:
    def remove(directory: Path) -> None:
        for name in names:
            (directory / name).unlink()

    return remove


def pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def cut_short(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def huge_header(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")


def header_of_nonsense(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", 16) + b'{"a": {"b": 1}} ')


def config_of_nonsense(directory: Path) -> None:
    (directory / "config.json").write_text("[1, 2")


def no_context(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": "llama"}')


@pytest.mark.parametrize(
    ("damage", "code", "says"),
    [
        (without("config.json"), "no_config", "config.json"),
        (without("model.safetensors"), "no_weights", "safetensors"),
        (pickled, "pickle_weights", "pytorch_model.bin"),
        (without("tokenizer.json"), "no_tokenizer", "tokenizer.json"),
        (without("chat_template.jinja"), "no_chat_template", "chat_template.jinja"),
        (cut_short, "corrupt_model", "bytes where its header speaks of"),
        (huge_header, "corrupt_model", "header"),
        (header_of_nonsense, "corrupt_model", "header"),
        (config_of_nonsense, "corrupt_model", "not JSON"),
        (no_context, "no_context_length", "max_position_embeddings"),
    ],
)
def test_a_directory_that_cannot_be_used_says_why(
    model_dir: Path, settings: Settings, damage: Callable[[Path], None], code: str, says: str
) -> None:
    damage(model_dir)
    with pytest.raises(ModelError, match=says) as raised:
        find(str(model_dir), settings)
    assert raised.value.code == code
    assert str(model_dir) in raised.value.message
