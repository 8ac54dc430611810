"""Fixtures for every test: a real base model, a tiny random one, the shared data sets, and settings of one's own."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.nursery import Nursery
from tunewise.catalogue import DEFAULT_MODEL, find
from tunewise.contracts.run import BaseModelRef
from tunewise.settings import Settings, get_settings

REPOSITORY = Path(__file__).parents[1]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose home is empty and vanishes."""
    return Settings(home=tmp_path / "home")


@pytest.fixture(scope="session")
def smollm2() -> BaseModelRef:
    """SmolLM2-135M-Instruct, as `make setup` has put it on this machine."""
    return find(DEFAULT_MODEL, get_settings())


@pytest.fixture(scope="session")
def tiny_model(smollm2: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> BaseModelRef:
    """A random Llama (2 layers, hidden 64, 4 heads, 2 of keys and values) with SmolLM2's tokenizer and template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("models") / "tiny"
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    for file in TOKENIZER_FILES:
        shutil.copy(smollm2.path / file, directory / file)
    return find(str(directory), Settings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Where workers and trainers are forked."""
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The directory of real data sets, which is no part of this repository."""
    path = Path(os.environ.get("TUNEWISE_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"the shared data sets are not at {path}; TUNEWISE_SHARED_DATA names another place")
    return path
