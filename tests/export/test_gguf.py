"""GGUF files of tuned models: llama.cpp answers from them, our import reads them back, what differs is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM

from export.made import make_base, save_random_adapter, spec_of
from export.test_published import Tuned, logits
from tunewise.contracts.chat import UserMessage
from tunewise.contracts.run import BaseModelRef
from tunewise.data.template import MARK, Template
from tunewise.errors import ConfigError, ModelError
from tunewise.export import gguf_file, gguf_tokens
from tunewise.export.gguf_tokens import way_of_cutting
from tunewise.export.llama_cpp import LlamaCpp
from tunewise.export.modelfile import STYLES, default_system, modelfile
from tunewise.export.publish import export
from tunewise.modeling.convert import convert_gguf
from tunewise.modeling.parity import TOLERANCES

TEXT = "List the words of the recipe: 1250 apples, don't stop!  Straße 5 €\n\n\tIs it two?"
WAYS_OF_SMOLLM = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}


@pytest.fixture(scope="module")
def tuned(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tuned]:
    made: dict[str, Tuned] = {}

    def of(family: str) -> Tuned:
        if family not in made:
            place = tmp_path_factory.mktemp(family)
            base = tiny_model if family == "smollm2" else make_base(family, place / "base")
            made[family] = Tuned(base, save_random_adapter(base, place / "adapter"))
        return made[family]

    return of


@pytest.mark.parametrize("quantisation", ["f16", "q8_0"])
@pytest.mark.parametrize("family", ["smollm2", "llama3", "qwen2", "qwen3", "gemma3"])
def test_llama_cpp_answers_as_the_adapter_and_reads_texts_alike(
    family: str, quantisation: str, tuned: Callable[[str], Tuned], tmp_path: Path
) -> None:
    one = tuned(family)
    output = tmp_path / "out"
    report = export(spec_of(one.base, one.adapter, output, target="gguf", quantisation=quantisation))
    assert (report.checked_with, report.prompts) == ("llama.cpp", 4)
    assert report.widest_logprob is not None
    assert 0 < report.widest_logprob < TOLERANCES[quantisation].logprob  # type: ignore[index]
    file = output / f"a-test-{quantisation}.gguf"
    assert set(report.files) == {file.name, "Modelfile"}
    template = Template.load(one.base.path)
    with LlamaCpp(file, 64, end=min(template.stop_ids)) as llama:
        assert llama.tokens(TEXT) == template.encode(TEXT)


@pytest.mark.parametrize("family", ["smollm2", "qwen2"])
def test_our_import_reads_it_back(family: str, tuned: Callable[[str], Tuned], tmp_path: Path) -> None:
    one = tuned(family)
    export(spec_of(one.base, one.adapter, tmp_path / "out", target="gguf"))
    convert_gguf(tmp_path / "out" / "a-test-f16.gguf", tmp_path / "back")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32)
    drift = (logits(back).log_softmax(-1) - one.logits().log_softmax(-1)).abs().max()
    assert drift < 0.2  # the import keeps bfloat16
    template, theirs = Template.load(one.base.path), Template.load(tmp_path / "back")
    assert theirs.encode(TEXT) == template.encode(TEXT)
    assert theirs.stop_ids == template.stop_ids


@pytest.mark.parametrize("tensor", ["blk.1.attn_q.weight", "blk.0.ffn_down.weight"])
def test_a_mistake_in_the_file_is_found_and_named(
    tensor: str, tuned: Callable[[str], Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tuned("llama3")
    turned = gguf_file._turned

    def careless(stored: gguf_file.Stored) -> Any:  # noqa: ANN401  # an array
        return turned(stored._replace(value=stored.value * -3) if stored.name == tensor else stored)

    monkeypatch.setattr(gguf_file, "_turned", careless)
    with pytest.raises(ModelError, match=r"the gguf export of a test: prompt \d of 4 \(.*\), token \d+ of the answer"):
        export(spec_of(one.base, one.adapter, tmp_path / "out", target="gguf"))
    assert list(tmp_path.iterdir()) == []


def test_queries_that_were_not_put_in_llama_cpps_order_are_found(
    tuned: Callable[[str], Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tuned("llama3")
    monkeypatch.setattr(gguf_file, "PERMUTED", ("none",))
    with pytest.raises(ModelError) as refused:
        export(spec_of(one.base, one.adapter, tmp_path / "out", target="gguf"))
    assert refused.value.code == "parity_failed"


def test_texts_cut_otherwise_are_found(
    tuned: Callable[[str], Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tuned("qwen2")
    pairs = gguf_tokens._pairs
    monkeypatch.setattr(gguf_tokens, "_pairs", lambda model: pairs(model)[:10])
    with pytest.raises(
        ModelError, match=r"prompt 1 \((?s:.*)token \d+ is .* in training and .* in llama\.cpp"
    ) as refused:
        export(spec_of(one.base, one.adapter, tmp_path / "out", target="gguf"))
    assert refused.value.code == "tokens_differ"


def test_a_tokenizer_that_llama_cpp_has_no_name_for_is_refused(tmp_path: Path, family_model: Any) -> None:  # noqa: ANN401
    base = family_model("llama3")  # its words are cut as by no published tokenizer
    adapter = save_random_adapter(base, tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"tokenizer\.json: llama\.cpp has no name for this tokenizer: it cuts") as no:
        export(spec_of(base, adapter, tmp_path / "out" / "it", target="gguf"))
    assert no.value.code == "unknown_tokenizer"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("family", ["phi3", "mistral"])
def test_a_family_that_is_not_written_is_refused_by_name(family: str, tmp_path: Path, family_model: Any) -> None:  # noqa: ANN401
    base = family_model(family)
    adapter = save_random_adapter(base, tmp_path / "adapter")
    with pytest.raises(ModelError, match=f"{family} models are not written, only llama") as refused:
        export(spec_of(base, adapter, tmp_path / "out", target="gguf"))
    assert refused.value.code == "unsupported_gguf"


def test_smollms_published_tokenizer_has_its_name(smollm2: BaseModelRef) -> None:
    tokenizer = json.loads((smollm2.path / "tokenizer.json").read_bytes())
    assert way_of_cutting(tokenizer, smollm2.path) == "gpt-2"  # as the import of its GGUF file has it
    assert way_of_cutting(tokenizer | {"pre_tokenizer": WAYS_OF_SMOLLM}, smollm2.path) == "smollm"


def test_without_llama_cpp_a_file_is_refused_or_said_to_be_unverified(
    tuned: Callable[[str], Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tuned("qwen3")
    monkeypatch.setattr("tunewise.export.gate.is_installed", lambda: False)
    spec = spec_of(one.base, one.adapter, tmp_path / "out", target="gguf")
    with pytest.raises(ConfigError, match=r"pip install 'tunewise\[gguf\]'.*--unverified") as refused:
        export(spec)
    assert refused.value.code == "llama_cpp_missing"
    assert list(tmp_path.iterdir()) == []
    report = export(spec.model_copy(update={"unverified": True}))
    assert (report.checked_with, report.tokens) == (None, None)


def test_the_file_tells_what_the_model_is(tuned: Callable[[str], Tuned], tmp_path: Path) -> None:
    one = tuned("gemma3")
    export(spec_of(one.base, one.adapter, tmp_path / "out", target="gguf"))
    fields = gguf.GGUFReader(tmp_path / "out" / "a-test-f16.gguf").fields
    found = {key: fields[key].contents() for key in fields if not key.startswith("tokenizer.ggml.tokens")}
    template = Template.load(one.base.path)
    assert found["general.architecture"] == "gemma3"
    assert found["general.license"] == "apache-2.0"
    assert found["gemma3.context_length"] == 1024
    assert found["gemma3.attention.sliding_window_pattern"] == 2
    assert found["gemma3.rope.scaling.factor"] == 8.0
    assert found["tokenizer.chat_template"] == (one.base.path / "chat_template.jinja").read_text()
    assert {found["tokenizer.ggml.eot_token_id"]} == template.turn_end
    assert found["tokenizer.ggml.add_bos_token"] is True or template.bos == []


@pytest.mark.parametrize("family", ["smollm2", "qwen2", "llama3", "gemma3"])
def test_a_modelfile_writes_turns_as_the_template_does(family: str, tuned: Callable[[str], Tuned]) -> None:
    base = tuned(family).base
    template = Template.load(base.path)
    text = modelfile("it.gguf", template, base.path)
    rendered = template.decode(template.prompt_ids([UserMessage(content=MARK)]), skip_special=False)
    style = next(style for style in STYLES if style.sign in rendered)
    assert rendered.endswith(style.turn.format(role="user", text=MARK) + style.opening)
    assert text.startswith("FROM ./it.gguf\nTEMPLATE ")
    for stop in template.stop_ids:
        assert f'PARAMETER stop "{template.tokenizer.id_to_token(stop)}"' in text
    system = default_system(style, template)
    assert (system is not None) == ("SYSTEM " in text)
    if family == "smollm2":
        assert system == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def test_exports_of_two_formats_stand_side_by_side(tuned: Callable[[str], Tuned], tmp_path: Path) -> None:
    one = tuned("qwen3")
    for quantisation in ("f16", "q8_0"):
        export(spec_of(one.base, one.adapter, tmp_path / quantisation, target="gguf", quantisation=quantisation))
    sizes = [next((tmp_path / each).glob("*.gguf")).stat().st_size for each in ("f16", "q8_0")]
    assert sizes[1] < 0.8 * sizes[0]
