"""What a grammar allows is what was asked for, whatever the model would rather write."""

import json
import random
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import jsonschema_rs
import pytest
import torch
from llguidance import LLMatcher, LLTokenizer

from serve.schemas import root
from tunewise.contracts.run import BaseModelRef
from tunewise.data.template import Template
from tunewise.errors import ConfigError, ServingError
from tunewise.serve.forms import Forms
from tunewise.serve.generation import Generation, Sampling
from tunewise.serve.grammars import Grammar, Grammars, allowed, check_schema
from tunewise.serve.json_formats import narrowed
from tunewise.serve.local import LocalEngine
from tunewise.serve.tokens import TokenBytes
from tunewise.serve.wire_forms import Form

FAMILIES = ("llama3", "qwen2", "qwen3", "gemma3", "phi3", "phi4", "mistral")
SAMPLES = 2
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def local(tiny_model: BaseModelRef) -> Iterator[LocalEngine]:
    with LocalEngine(tiny_model.path, torch.float32) as running:
        yield running


@pytest.fixture(scope="module")
def forms(local: LocalEngine) -> Forms:
    return Forms(local.template, local.engine.vocabulary)


def compiled(forms: Forms, schema: dict[str, Any]) -> Grammar:
    grammar = forms.prepare(Form(schema, "response_format")).grammar
    assert grammar is not None
    return grammar


def asked(grammar: Grammar | None, seed: int = 0, **changes: Any) -> Generation:  # noqa: ANN401
    plain = Generation((5, 6, 7 + seed), None, 1, 400, Sampling(1.3, 1.0, seed), grammar=grammar)
    return plain._replace(**changes)


def is_valid(schema: dict[str, Any], text: str) -> bool:
    return not problems(schema, text)


def problems(schema: dict[str, Any], text: str) -> list[str]:
    found = jsonschema_rs.iter_errors(schema, json.loads(text), validate_formats=True)
    return [f"{error.instance_path}: {error.message}" for error in found]


@pytest.mark.parametrize(("name", "count"), [("qwen2", 100), ("gemma3", 100), ("phi3", 50)])
def test_finished_answers_of_a_model_of_noise_are_all_valid(
    name: str, count: int, family_model: Callable[[str], BaseModelRef], figures: list[str]
) -> None:
    with LocalEngine(family_model(name).path, torch.float32) as local:
        finished = finished_and_valid(local, count)
    figures.append(f"answers of {count} schemas, {name}'s tokens of noise: {finished} of {count * SAMPLES}, all valid")
    assert finished > count * SAMPLES * 0.8


def test_finished_answers_in_smollm2s_tokens_are_all_valid(local: LocalEngine) -> None:
    assert finished_and_valid(local, 12) > 12 * SAMPLES * 0.8


def finished_and_valid(local: LocalEngine, count: int) -> int:
    """How many answers to so many schemas came to an end, each of them valid; the others were cut."""
    numbers, forms = random.Random(6), Forms(local.template, local.engine.vocabulary)
    schemas = [root(numbers) for _ in range(count)]
    kinds = [Sampling(temperature, top_p, 3) for temperature in (1.0, 1.7) for top_p in (1.0, 0.9)]
    wanted = [
        asked(compiled(forms, schema), at, n=SAMPLES, sampling=kinds[at % len(kinds)]._replace(seed=at))
        for at, schema in enumerate(schemas)
    ]
    finished = 0
    for schema, result in zip(schemas, local.generate(wanted), strict=True):
        for text, reason in zip(result.texts, result.finish_reasons, strict=True):
            if reason == "stop":
                finished += 1
                assert problems(schema, text) == [], (schema, text)
            else:
                assert reason == "length"
    return finished


def test_any_object_is_an_object(local: LocalEngine, forms: Forms) -> None:
    grammar = compiled(forms, {"type": "object"})
    results = local.generate([asked(grammar, seed, max_tokens=120) for seed in range(40)])
    finished = [result.texts[0] for result in results if result.finish_reasons == ["stop"]]
    assert len(finished) > 10
    assert all(isinstance(json.loads(text), dict) for text in finished)


def test_an_end_token_waits_until_all_is_said(local: LocalEngine, forms: Forms) -> None:
    ends = tuple((stop, 100.0) for stop in local.template.stop_ids)
    result = local.generate([asked(compiled(forms, PERSON), sampling=Sampling(1.0, 1.0, 3, bias=ends))])[0]
    assert result.finish_reasons == ["stop"]
    assert is_valid(PERSON, result.texts[0])


def test_an_answer_that_is_cut_says_so_and_one_that_just_fits_does_not(local: LocalEngine, forms: Forms) -> None:
    whole = local.generate([asked(compiled(forms, PERSON))])[0]
    used = whole.usage.completion_tokens
    for limit in (1, used // 2, used - 1):
        cut = local.generate([asked(compiled(forms, PERSON), max_tokens=limit)])[0]
        assert (cut.finish_reasons, cut.usage.completion_tokens) == (["length"], limit)
        assert whole.texts[0].startswith(cut.texts[0])
    fitting = local.generate([asked(compiled(forms, PERSON), max_tokens=used)])[0]
    assert (fitting.finish_reasons, fitting.texts) == (["stop"], whole.texts)


def test_a_seed_gives_the_same_answer_among_others(local: LocalEngine, forms: Forms) -> None:
    drawn = asked(compiled(forms, PERSON), n=3, sampling=Sampling(1.3, 0.9, 77))
    others = [asked(compiled(forms, {"type": "object"}), seed, max_tokens=60) for seed in range(8)]
    others += [asked(None, seed, max_tokens=60) for seed in range(8)]
    alone = local.generate([drawn])[0]
    assert alone.texts == local.generate([*others[:9], drawn, *others[9:]])[9].texts
    assert len(set(alone.texts)) == 3


def test_rows_without_a_grammar_are_what_they_are_without_any(local: LocalEngine, forms: Forms) -> None:
    plain = [asked(None, seed, max_tokens=40) for seed in range(6)]
    expected = [result.texts for result in local.generate(plain)]
    mixed = local.generate(
        [one for seed, free in enumerate(plain) for one in (free, asked(compiled(forms, PERSON), seed))]
    )
    assert [result.texts for result in mixed[::2]] == expected


def test_a_grammar_that_leads_nowhere_fails_its_request_and_no_other(local: LocalEngine, forms: Forms) -> None:
    tokenizer = LLTokenizer(local.template.tokenizer.to_str(), n_vocab=local.engine.vocabulary)
    broken = Grammar(LLMatcher(tokenizer, "start: absent", log_level=0), compiled(forms, PERSON).words)
    number = local.engine.submit(asked(broken, n=3))
    assert [(one, type(event).__name__) for one, event in local.next_events()] == [(number, "Failed")]
    with pytest.raises(ServingError) as failed:
        local.generate([asked(broken)])
    assert failed.value.code == "grammar_too_complex"
    assert local.engine.unfinished == 0
    assert local.generate([asked(compiled(forms, PERSON))])[0].finish_reasons == ["stop"]


def test_a_grammar_is_compiled_once(forms: Forms) -> None:
    assert compiled(forms, PERSON).start is compiled(forms, dict(PERSON)).start


@pytest.mark.parametrize("name", FAMILIES)
def test_the_library_reads_every_token_as_the_model_writes_it(
    name: str, family_model: Callable[[str], BaseModelRef]
) -> None:
    assert_same_bytes(Template.load(family_model(name).path))


def test_the_library_reads_smollm2s_tokens(local: LocalEngine) -> None:
    assert_same_bytes(local.template)


def assert_same_bytes(template: Template) -> None:
    tokenizer, ours = template.tokenizer, TokenBytes(template.tokenizer)
    theirs = LLTokenizer(tokenizer.to_str())
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    differ = [i for i in range(tokenizer.get_vocab_size()) if i not in special and theirs.decode_bytes([i]) != ours[i]]
    # A byte that no text has is what the library marks special tokens with.
    assert [ours[i] for i in differ] in ([], [b"\xff"])
    assert all(theirs.is_special_token(i) for i in special)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_familys_tokens_write_valid_json(name: str, family_model: Callable[[str], BaseModelRef]) -> None:
    template = Template.load(family_model(name).path)
    grammar = compiled(Forms(template, template.tokenizer.get_vocab_size()), PERSON)
    numbers = random.Random(4)
    for _ in range(40):
        walk, ids = grammar.begin(), list[int]()
        while not walk.is_over():
            ids.append(
                numbers.choice(allowed([walk], template.tokenizer.get_vocab_size())[0].nonzero().flatten().tolist())
            )
            walk.take(ids[-1])
        assert walk.problem() is None
        text = template.decode(ids)
        assert text.startswith("{")
        assert is_valid(PERSON, text)


def test_a_vocabulary_larger_than_the_tokenizers_is_masked_too(forms: Forms, local: LocalEngine) -> None:
    tokenizer = local.template.tokenizer
    size = tokenizer.get_vocab_size() + 100
    grammar = Grammars(tokenizer, local.template.stop_ids, size).compiled('start: "yes" | "no"', "x")
    mask = allowed([grammar.begin()], size)
    assert mask.shape == (1, size)
    assert {tokenizer.id_to_token(i) for i in mask[0].nonzero().flatten().tolist()} == {"y", "ye", "yes", "n", "no"}


STRINGS = [
    ("date", "2024-02-29", True),
    ("date", "2023-02-29", False),
    ("date", "1900-02-29", False),
    ("date", "2000-02-29", True),
    ("date", "0000-01-01", False),
    ("date", "2023-04-30", True),
    ("date", "2023-04-31", False),
    ("time", "23:59:59Z", True),
    ("time", "22:24:60Z", False),
    ("date-time", "2024-02-29T12:30:00.5+01:00", True),
    ("date-time", "2023-02-29T12:30:00Z", False),
    ("date-time", "2023-02-28T12:30:60Z", False),
    ("email", "a.b@c-d.example", True),
    ("email", f"a@{'b' * 64}.c", False),
    ("email", f"{'a' * 65}@b.c", False),
    ("email", f"a@{'b.' * 130}c", False),
]


@pytest.mark.parametrize(("kind", "text", "is_right"), STRINGS)
@pytest.mark.parametrize("where", ["value", "format", "nullable"])
def test_formats_are_as_narrow_as_those_who_read_them(
    local: LocalEngine, forms: Forms, kind: str, text: str, is_right: bool, where: str
) -> None:
    string: dict[str, Any] = {"type": ["string", "null"] if where == "nullable" else "string", "format": kind}
    schema = {"type": "object", "properties": {where: string}, "required": [where], "additionalProperties": False}
    walk, answer = compiled(forms, schema).begin(), json.dumps({where: text}, separators=(",", ":"))
    for token in local.template.encode(answer):
        walk.take(token)
    assert (walk.problem() is None) == is_right
    if is_right and kind in {"date", "date-time"}:
        datetime.fromisoformat(text)


def test_data_in_a_schema_is_no_format() -> None:
    schema = {"const": {"format": "date"}, "properties": {"enum": {"format": "date"}}}
    made = narrowed(schema)
    assert made["const"] == {"format": "date"}
    assert len(made["properties"]["enum"]["allOf"]) == 2


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"type": "strin"}, "Invalid type: strin"),
    ({"not": {"type": "string"}}, "not"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "string", "format": "colour"}, "Unknown format: colour"),
    ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    ({"type": "object", "properties": {"a": {"$ref": "#/$defs/gone"}}}, "/$defs/gone"),
    ({"$ref": "http://elsewhere.example/schema"}, "elsewhere"),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    ({"not": {}, "x-guidance": {"lenient": True}}, "not"),
]


@pytest.mark.parametrize(("schema", "reason"), REFUSED, ids=[str(number) for number in range(len(REFUSED))])
def test_what_cannot_be_enforced_is_refused_with_the_reason(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_schema(schema, "response_format.json_schema.schema")
    assert reason in refused.value.message
    assert (refused.value.code, refused.value.param) == ("invalid_json_schema", "response_format.json_schema.schema")
