"""The parity gate of exports: each is read back from where it was written, by what its users will read it with.

Knows how each format is loaded; what may differ is `modeling.parity`'s. Weights of any format are computed in float32,
so that what is seen is their own rounding; llama.cpp computes as it does for everybody.
"""

from pathlib import Path

from tunewise.contracts.export import ExportSpec
from tunewise.contracts.parity import Parity
from tunewise.data.template import Template
from tunewise.errors import ConfigError
from tunewise.export.llama_cpp import LlamaCpp, is_installed
from tunewise.export.tuned import adapted_base, load_model
from tunewise.modeling.parity import Agreement, readings_of, require_parity, tolerance


def check_adapter(spec: ExportSpec, place: Path, parity: Parity, template: Template, what: str) -> Agreement:
    """Load the adapter with PEFT on the base model.

    Raises:
        ModelError: parity_failed.
    """
    adapted = adapted_base(spec, place)
    readings = [readings_of(adapted, prompt) for prompt in parity.prompts]
    return require_parity(
        parity.prompts, readings, tolerance("float32", parity.dtype), what=what, decode=template.decode
    )


def check_merged(spec: ExportSpec, place: Path, parity: Parity, template: Template, what: str) -> Agreement:
    """Load the directory with transformers.

    Raises:
        ModelError: parity_failed.
    """
    model = load_model(place)
    readings = [readings_of(model, prompt) for prompt in parity.prompts]
    return require_parity(
        parity.prompts, readings, tolerance(spec.dtype, parity.dtype), what=what, decode=template.decode
    )


def check_gguf(spec: ExportSpec, file: Path, parity: Parity, template: Template, what: str) -> Agreement:
    """Load the file with llama.cpp; it has to cut the prompts' text into the same tokens, too.

    Raises:
        ModelError: llama_cpp_refuses, tokens_differ, parity_failed.
    """
    longest = max(len(prompt.prompt) + len(prompt.continuation) for prompt in parity.prompts)
    with LlamaCpp(file, longest + 1, end=min(template.stop_ids)) as llama:
        llama.require_same_tokens(
            [template.decode(each.prompt, skip_special=False) for each in parity.prompts], template
        )
        readings = [llama.readings(prompt) for prompt in parity.prompts]
    allowed = tolerance(spec.quantisation, parity.dtype)
    return require_parity(parity.prompts, readings, allowed, what=what, decode=template.decode)


def require_llama_cpp() -> None:
    """Refuse a GGUF file that nothing here could read back.

    Raises:
        ConfigError: llama_cpp_missing.
    """
    if not is_installed():
        raise ConfigError(
            "llama_cpp_missing",
            "a GGUF file is published once llama.cpp has answered from it as the trained model did, and llama.cpp is "
            "not installed. Run: pip install 'tunewise[gguf]'; or write the file --unverified",
            param="--to",
        )
