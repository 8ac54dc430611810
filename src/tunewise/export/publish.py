"""One export from its spec to a published directory: written aside, read back, compared, renamed.

Nothing that fails the parity gate is ever found under its name. Knows the order of things; the formats are others'.
"""

import tempfile
import time
from pathlib import Path
from typing import NamedTuple, assert_never

from tunewise.contracts.export import ExportReport, ExportSpec
from tunewise.contracts.parity import PARITY_FILE, Parity
from tunewise.data.template import Template
from tunewise.errors import ConfigError
from tunewise.export import gate
from tunewise.export.directories import write_adapter, write_merged
from tunewise.export.gguf_file import write_gguf
from tunewise.export.modelfile import MODELFILE, modelfile
from tunewise.export.tuned import load_tuned, reference, tokenizer_directory
from tunewise.modeling.parity import Agreement, read_parity


class _Checked(NamedTuple):
    """What read the export back, and what it found."""

    by: str | None
    agreement: Agreement | None


def export(spec: ExportSpec) -> ExportReport:
    """Write, check and publish.

    Raises:
        ConfigError: output_exists, llama_cpp_missing.
        ModelError: it cannot be read or written in this format; parity_failed.
    """
    started = time.monotonic()
    _require_ready(spec)
    template = Template.load(tokenizer_directory(spec))
    recorded = read_parity(spec.source)
    parity = recorded or reference(spec, template)
    spec.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=spec.output.parent, prefix=f".{spec.output.name}.aside-") as aside:
        place = Path(aside) / "export"
        place.mkdir()
        checked = _write_and_check(spec, place, parity, template)
        if spec.target in {"adapter", "merged"}:
            (place / PARITY_FILE).write_text(parity.model_dump_json(indent=1), encoding="utf-8")
        place.rename(spec.output)
    found = checked.agreement
    return ExportReport(
        output=spec.output,
        files={file.name: file.stat().st_size for file in sorted(spec.output.iterdir())},
        checked_with=checked.by,
        recorded=recorded is not None,
        prompts=found and found.prompts,
        tokens=found and found.tokens,
        near_ties=found and found.near_ties,
        widest_logprob=found and found.widest_logprob,
        seconds=time.monotonic() - started,
    )


def _require_ready(spec: ExportSpec) -> None:
    """Refuse before anything slow what could not be finished."""
    if spec.output.exists():
        raise ConfigError(
            "output_exists", f"{spec.output} is there already; remove it, or name another --output", param="--output"
        )
    if spec.target == "gguf" and not spec.unverified:
        gate.require_llama_cpp()


def _write_and_check(spec: ExportSpec, place: Path, parity: Parity, template: Template) -> _Checked:
    what = f"the {spec.target} export of {spec.title}"
    match spec.target:
        case "adapter" | "hub-dir" if spec.kind == "adapter":
            write_adapter(spec, place)
            return _Checked("PEFT on the base model", gate.check_adapter(spec, place, parity, template, what))
        case "adapter":
            raise ConfigError(
                "no_adapter",
                f"{spec.title}: every weight was trained, there is no adapter; choose merged",
                param="--to",
            )
        case "merged" | "hub-dir":
            write_merged(spec, place, load_tuned(spec), template)
            return _Checked("transformers", gate.check_merged(spec, place, parity, template, what))
        case "gguf":
            return _gguf(spec, place, parity, template, what)
        case _:
            assert_never(spec.target)


def _gguf(spec: ExportSpec, place: Path, parity: Parity, template: Template, what: str) -> _Checked:
    file = place / f"{_stem(spec.title)}-{spec.quantisation}.gguf"
    write_gguf(spec, load_tuned(spec), template, file)
    (place / MODELFILE).write_text(modelfile(file.name, template, tokenizer_directory(spec)), encoding="utf-8")
    if spec.unverified:
        return _Checked(None, None)
    return _Checked("llama.cpp", gate.check_gguf(spec, file, parity, template, what))


def _stem(title: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in title).strip("-.")
