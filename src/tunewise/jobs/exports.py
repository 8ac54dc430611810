"""Tuned models on their way out: the formats that there are, and their bytes, piece by piece.

An export is read from the disk while it is sent, so that it takes constant memory however large it is.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, assert_never, get_args

from tunewise.contracts.jobs import Caller, TunedModel
from tunewise.contracts.parity import PARITY_FILE
from tunewise.contracts.run import TRAINING_STATE
from tunewise.errors import RequestError
from tunewise.jobs import inventory
from tunewise.jobs.platform import Platform
from tunewise.jobs.weights import kind_in, missing_in

Format: TypeAlias = Literal["adapter", "model"]
FORMATS: tuple[Format, ...] = get_args(Format)
CHUNK_BYTES = 1024 * 1024
# What a checkpoint holds for its trainer alone; and tokens of the owner's rows, which are not everybody's who may use
# the model.
KEPT_BACK = TRAINING_STATE | {PARITY_FILE}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of zip files: the same model gives the same bytes


class Export(NamedTuple):
    """A file that is made while it is sent."""

    filename: str
    media_type: str
    chunks: Iterator[bytes]


def export(platform: Platform, caller: Caller, name: str, wanted: str) -> Export:
    """A tuned model in one of the formats.

    Raises:
        RequestError: model_not_found; unknown_format, also where the model has no such form; model_unavailable, when
            its files are not there.
    """
    model = inventory.lineage(platform, caller, name).model
    directory, format_ = platform.settings.state_dir / model.adapter, _format(wanted)
    files = _files(model, directory)
    if format_ != kind_in(directory):
        message = f"format: {name!r} is not an {format_}; ask for {kind_in(directory)!r}"
        raise RequestError("unknown_format", message, param="format")
    match format_:
        case "adapter" | "model":
            stem = _stem(model)
            return Export(f"{stem}.zip", "application/zip", zipped(files, stem))
        case never:
            assert_never(never)


def zipped(files: list[Path], folder: str) -> Iterator[bytes]:
    """A zip file of these files in one folder, stored as they are: weights do not get smaller."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for path in files:
            entry = zipfile.ZipInfo(f"{folder}/{path.name}", _EPOCH)
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w", force_zip64=True) as target, path.open("rb") as source:
                while piece := source.read(CHUNK_BYTES):
                    target.write(piece)
                    yield sink.take()
    yield sink.take()


class _Sink:
    """What a zip file is written into; it cannot be gone back in, and gives away what it holds."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        """Keep it until it is taken."""
        self._pieces.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def _format(wanted: str) -> Format:
    if wanted not in FORMATS:
        raise RequestError("unknown_format", f"format: {wanted!r} is none of {', '.join(FORMATS)}", param="format")
    return FORMATS[FORMATS.index(wanted)]


def _files(model: TunedModel, directory: Path) -> list[Path]:
    """What PEFT or transformers loads, with the tokenizer and the model card."""
    files = sorted(path for path in directory.glob("*") if path.is_file() and path.name not in KEPT_BACK)
    if missing_in(directory):
        raise RequestError(
            "model_unavailable",
            f"The weights of {model.name!r} are not in {model.adapter} of the state directory; restore a backup",
            param="model",
        )
    return files


def _stem(model: TunedModel) -> str:
    return "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in model.azure_name)
