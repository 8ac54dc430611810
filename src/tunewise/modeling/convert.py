"""Making a base model's directory: `python -m tunewise.modeling.convert SOURCE DEST`, from a GGUF file or the hub.

DEST is whole or absent: it is written aside and renamed. Afterwards it holds safetensors, `config.json`,
`generation_config.json`, `tokenizer.json` and a chat template, which is all that the rest of Tunewise needs. A model
without a chat template is given ChatML where `--chatml` asks for it, from a GGUF file or a directory.
Knows nothing of names, caches or who asks: `tunewise.catalogue` decides where DEST lies, and reads the one line of JSON
that a failure prints on standard output.
"""

import argparse
import errno
import functools
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import httpx2
import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from tunewise.contracts.run import ADDED_TOKENS_FILE, RunFailure
from tunewise.errors import ModelError, TunewiseError
from tunewise.modeling.chatml import add_chatml

HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "LICENSE*"]
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
WEIGHT_BYTES = 2
"""Converted weights are bfloat16."""


def convert_gguf(source: Path, dest: Path, *, chatml: bool = False) -> None:
    """De-quantise a GGUF file into a bfloat16 safetensors directory.

    `chatml`: give it a chat template where it has none.

    Raises:
        ModelError: the file is damaged, has no tokenizer or chat template, or is of an architecture that
            `transformers` cannot read; or the disk is too small.
    """
    reader = _open_gguf(source)
    _require_tokenizer(reader, source, chatml=chatml)
    _require_space(dest.parent, WEIGHT_BYTES * sum(int(tensor.n_elements) for tensor in reader.tensors))
    with _read_once(reader), _written_aside(dest) as directory:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        model = _dequantised(source)
        _complete(model, tokenizer, directory)


def convert_directory(source: Path, dest: Path) -> None:
    """Copy a model's directory that has no chat template, and give the copy ChatML.

    Raises:
        ModelError: it cannot be loaded, or the disk is too small.
    """
    _require_space(dest.parent, sum(file.stat().st_size for file in source.glob("*.safetensors")))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(source, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError("unsupported_model", f"{source} cannot be loaded as a language model: {error}") from error
    with _written_aside(dest) as directory:
        _complete(model, tokenizer, directory)


def _complete(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Fill a model's directory; what has no chat template gets ChatML."""
    if not tokenizer.chat_template:
        added = add_chatml(model, tokenizer)
        (directory / ADDED_TOKENS_FILE).write_text(json.dumps({"added_tokens": added}), encoding="utf-8")
    configured: Any = model.generation_config
    configured.eos_token_id = _stop_ids(tokenizer, model.config.get_text_config().eos_token_id)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(str(directory))


def pull_hub(source: str, dest: Path, *, offline: bool) -> None:
    """Fetch `owner/name` or `owner/name@revision`; DEST links to the files in the hub's own cache, safetensors only.

    Raises:
        ModelError: the hub does not have it, cannot be reached, asks for a licence, or offers pickled weights only.
    """
    repository, _, revision = source.partition("@")
    with _hub_errors(source):
        if not offline:
            _require_safe_weights(repository, revision or None, dest)
        snapshot = Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=HUB_FILES, local_files_only=offline)
        )
    with _written_aside(dest) as directory:
        for file in snapshot.iterdir():
            if file.is_file():
                (directory / file.name).symlink_to(file.resolve())


def _open_gguf(source: Path) -> gguf.GGUFReader:
    """The file's fields and tensors; the reader checks every offset against the file's size."""
    with source.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelError("corrupt_model", f"{source} is not a GGUF file: it does not begin with the letters GGUF.")
    try:
        return gguf.GGUFReader(source)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ModelError(
            "corrupt_model",
            f"{source} is damaged or cut short ({error}). Fetch it again and compare its sha256 with the publisher's.",
        ) from error


def _require_tokenizer(reader: gguf.GGUFReader, source: Path, *, chatml: bool) -> None:
    if "tokenizer.ggml.tokens" not in reader.fields:
        raise ModelError("no_tokenizer", f"{source} holds no tokenizer (tokenizer.ggml.tokens); choose another file.")
    if "tokenizer.chat_template" not in reader.fields and not chatml:
        raise ModelError(
            "no_chat_template",
            f"{source} holds no chat template (tokenizer.chat_template): it is not a chat model. "
            f"Choose an instruct or chat version of it, or give it ChatML: tunewise models pull --chatml {source}",
        )


@contextmanager
def _joined(parts: Sequence[Path], directory: Path) -> Iterator[Path]:
    """The whole of a file that lies in pieces, for a while."""
    _require_space(directory, sum(part.stat().st_size for part in parts))
    with tempfile.TemporaryDirectory(dir=directory, prefix=".joined-") as temporary:
        whole = Path(temporary) / "model.gguf"
        with whole.open("wb") as file:
            for part in parts:
                with part.open("rb") as piece:
                    shutil.copyfileobj(piece, file)
        yield whole


def _require_space(directory: Path, needed: int) -> None:
    """Bytes needed, with a tenth to spare."""
    free = shutil.disk_usage(directory).free
    if free < needed * 1.1:
        raise ModelError(
            "disk_full",
            f"The model needs {needed / 1e6:,.0f} MB in {directory}, where {free / 1e6:,.0f} MB are free. "
            "Make room, or set TUNEWISE_HOME to a larger disk.",
        )


@contextmanager
def _read_once(reader: gguf.GGUFReader) -> Iterator[None]:
    """Let `transformers` use the reader that is open already, and build its table of tensor names once.

    It parses the file's header three times and rebuilds the table for each of SmolLM2-135M's 397 modules; with both
    kept, a conversion takes 21 seconds in place of 37 (transformers 5.23, two cores).
    """
    library: Any = gguf
    open_reader, tensor_names = library.GGUFReader, library.get_tensor_name_map
    library.GGUFReader = lambda *_: reader
    library.get_tensor_name_map = functools.cache(tensor_names)
    try:
        yield
    finally:
        library.GGUFReader, library.get_tensor_name_map = open_reader, tensor_names


def _dequantised(source: Path) -> PreTrainedModel:
    """The model in bfloat16, with nothing left in its configuration that speaks of quantisation."""
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
    except (NotImplementedError, ValueError, KeyError) as error:
        raise ModelError(
            "unsupported_model", f"{source}: transformers cannot de-quantise this model ({error}). Use its safetensors."
        ) from error
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    converted: PreTrainedModel = model.to(torch.bfloat16)
    return converted


def _stop_ids(tokenizer: PreTrainedTokenizerBase, eos: int | list[int] | None) -> int | list[int]:
    """The model's end token and, where the chat template ends an answer with another one, that one too.

    Many GGUF files name `<|endoftext|>` as the end token although the template ends every turn otherwise.
    """
    answer = "ANSWER"
    text = str(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": answer}], tokenize=False
        )
    )
    after = tokenizer(text.rpartition(answer)[2], add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    known = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
    stops = list(dict.fromkeys(known + [token for token in after if token in special][:1]))
    return stops[0] if len(stops) == 1 else stops


def _require_safe_weights(repository: str, revision: str | None, dest: Path) -> None:
    info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    files = {file.rfilename: file.size or 0 for file in info.siblings or []}
    if not any(name.endswith(".safetensors") for name in files):
        pickled = any(name.endswith(PICKLE_SUFFIXES) for name in files)
        raise ModelError(
            "pickle_weights" if pickled else "no_weights",
            f"{repository} has {'pickled weights only, which can run code when read' if pickled else 'no weights'}; "
            "choose a repository with .safetensors files.",
        )
    _require_space(dest.parent, sum(size for name, size in files.items() if name.endswith(".safetensors")))


@contextmanager
def _hub_errors(source: str) -> Iterator[None]:
    """The hub client's errors as ours; the most particular come first, because they inherit from one another."""
    try:
        yield
    except GatedRepoError as error:
        raise ModelError(
            "gated_model", f"{source} asks for its licence to be accepted: do so on its page, then set HF_TOKEN."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelError(
            "unknown_model", f"The hub has no model {source!r}, or it is private: check the name, set HF_TOKEN."
        ) from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            "hub_unreachable",
            f"{source} is not on this machine, and the hub is off (HF_HUB_OFFLINE) or cannot be reached. Pull it where "
            "there is a network, or name a local directory, a GGUF file or smollm2-135m-instruct.",
        ) from error
    except (httpx2.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise ModelError("hub_unreachable", f"{source} could not be fetched from the hub: {error}.") from error


@contextmanager
def _written_aside(dest: Path) -> Iterator[Path]:
    """A new directory beside DEST that becomes DEST when all went well, and vanishes when not.

    Where another process has made DEST meanwhile, that one stays: both hold the same.
    """
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=".aside-", ignore_cleanup_errors=True) as temporary:
        directory = Path(temporary) / "model"
        directory.mkdir()
        yield directory
        try:
            directory.rename(dest)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise


def _fail(error: TunewiseError) -> int:
    failure = RunFailure(code=error.code, message=error.message, param=error.param)
    sys.stdout.write(failure.model_dump_json() + "\n")
    return error.exit_code


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tunewise.modeling.convert", description=__doc__)
    parser.add_argument("source", help="a .gguf file, or owner/name[@revision] on the hub")
    parser.add_argument("dest", type=Path, help="the directory to make")
    parser.add_argument(
        "--part", type=Path, action="append", default=[], help="a further piece of the .gguf file, in order"
    )
    parser.add_argument("--chatml", action="store_true", help="give a model without a chat template ChatML")
    parser.add_argument("--offline", action="store_true", help="use only what the hub's cache holds")
    options: Any = parser.parse_args(arguments)
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        options.dest.parent.mkdir(parents=True, exist_ok=True)
        if options.part:
            with _joined([Path(options.source), *options.part], options.dest.parent) as whole:
                convert_gguf(whole, options.dest, chatml=options.chatml)
        elif options.source.endswith(".gguf"):
            convert_gguf(Path(options.source).resolve(), options.dest, chatml=options.chatml)
        elif Path(options.source).is_dir() and options.chatml:
            convert_directory(Path(options.source), options.dest)
        else:
            pull_hub(options.source, options.dest, offline=options.offline)
    except TunewiseError as error:
        return _fail(error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return _fail(ModelError("disk_full", f"The disk of {options.dest.parent} is full. Make room and try again."))
    return 0


if __name__ == "__main__":
    sys.exit(main())
