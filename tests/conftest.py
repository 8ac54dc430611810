"""Fixtures for every test: a real base model, a tiny random one, the shared data sets, and settings of one's own.

With `-n 2` (pytest-xdist) each half of the tests has cores of its own, and so have the processes that it starts: two
trainers' threads on the same cores would wait for each other most of the time.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings

from jobs.nursery import Nursery
from store.cluster import Cluster, binaries
from tunewise.catalogue import DEFAULT_MODEL, find
from tunewise.contracts.run import BaseModelRef
from tunewise.settings import Settings, get_settings
from tunewise.store.db import Database
from tunewise.store.migrate import upgrade

REPOSITORY = Path(__file__).parents[1]
FIGURES = pytest.StashKey[list[str]]()
# How long an example takes is the machine's affair.
hypothesis_settings.register_profile("any machine", deadline=None)
hypothesis_settings.load_profile("any machine")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = []
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        cores, number = sorted(os.sched_getaffinity(0)), int(worker.removeprefix("gw"))
        halves = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        os.sched_setaffinity(0, cores[number::halves] or cores)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A half of the tests hands its figures to the process that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["figures"] = session.config.stash[FIGURES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # noqa: ANN401  # pytest-xdist has no types
    node.config.stash[FIGURES] += getattr(node, "workeroutput", {}).get("figures", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash[FIGURES]:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> list[str]:
    """Lines that are told at the end: how much was asked, killed and compared."""
    return request.config.stash[FIGURES]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose home is empty and vanishes."""
    return Settings(home=tmp_path / "home")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server, where its programs are installed."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed: no initdb in PATH or /usr/lib/postgresql")
    cluster = Cluster(programs)
    yield cluster
    cluster.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind that there is."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tunewise.db'}"
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.new_database()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database of each kind, with this version's tables."""
    database = Database(database_url)
    upgrade(database)
    yield database
    database.close()


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
def family_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], BaseModelRef]:
    """The tiny random model of a family of `modeling.families`, by its name."""

    @cache
    def model(name: str) -> BaseModelRef:
        from modeling.families import FAMILIES, make

        directory = tmp_path_factory.mktemp("families") / name
        make(next(family for family in FAMILIES if family.name == name), directory)
        return find(str(directory), Settings(home=tmp_path_factory.mktemp("home")))

    return model


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
