"""Documents as rows: no token is lost or trained on twice, blocks are filled well, and what is wrong is told."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from tunewise.contracts.run import BaseModelRef
from tunewise.data.check import Limits, check
from tunewise.data.documents import blocks, document_chunks
from tunewise.data.formats import read_conversations, read_examples, read_texts
from tunewise.data.template import Template
from tunewise.errors import DataError

BOS, EOS = 1, 2
WORDS = ("the", "sea", "is", "salt", "and", "wide", "land", "dry", "where", "no", "river", "comes", "down", "from")


@pytest.fixture(scope="module")
def template(tiny_model: BaseModelRef) -> Template:
    return Template.load(tiny_model.path)


@pytest.fixture(scope="module")
def opened(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A tokenizer that puts a token of its own before every text, as Llama's and Gemma's do."""
    directory = tmp_path_factory.mktemp("models") / "opened"
    shutil.copytree(tiny_model.path, directory)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", BOS)])
    tokenizer.save(str(directory / "tokenizer.json"))
    return Template.load(directory)


def document(words: int, number: int = 0) -> str:
    return " ".join(WORDS[(place * 7 + number) % len(WORDS)] for place in range(words))


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_the_tokens_before_and_after_a_document_are_the_models(template: Template, opened: Template) -> None:
    assert (template.bos, template.eos) == ([], [EOS])
    assert (opened.bos, opened.eos) == ([BOS], [EOS])


@pytest.mark.parametrize("size", [4, 16, 1000])
@pytest.mark.parametrize("kind", ["template", "opened"])
def test_every_token_of_a_document_carries_loss_once(kind: str, size: int, request: pytest.FixtureRequest) -> None:
    template: Template = request.getfixturevalue(kind)
    texts = [document(words, words) for words in (1, 14, 15, 16, 40)]
    for text, chunks in zip(texts, document_chunks(template, texts, size), strict=True):
        trained = [i for chunk in chunks for i, on in zip(chunk.ids, chunk.mask, strict=True) if on]
        assert trained == [*template.encode(text), EOS]
        assert all(len(chunk.ids) <= size for chunk in chunks)
        assert all(len(chunk.ids) == size for chunk in chunks[:-1])
        assert chunks[0].ids[0] == (BOS if template.bos else EOS)
        for before, after in pairwise(chunks):
            context = after.ids[: after.mask.index(1)]
            assert context == [*template.bos, before.ids[-1]]


@given(st.lists(st.integers(1, 64), max_size=80))
@settings(max_examples=200)
def test_blocks_hold_every_chunk_once_and_are_filled_well(lengths: list[int]) -> None:
    laid = blocks(lengths, 64)
    assert sorted(chunk for block in laid for chunk in block) == list(range(len(lengths)))
    filled = [sum(lengths[chunk] for chunk in block) for block in laid]
    assert max(filled, default=0) <= 64
    # Of two blocks that are at most half full, one would have been put into the other.
    assert sum(fill <= 32 for fill in filled) <= 1


def test_real_documents_fill_their_blocks(template: Template, shared_data: Path) -> None:
    texts = [text for _, text in read_texts(shared_data / "cpt_wiki" / "c4_demo.jsonl")]
    lengths = [len(chunk.ids) for chunks in document_chunks(template, texts, 1024) for chunk in chunks]
    laid = blocks(lengths, 1024)
    assert len(laid) == -(-sum(lengths) // 1024)


def test_a_text_file_is_counted_in_documents_tokens_and_blocks(template: Template, tmp_path: Path) -> None:
    texts = [document(50), document(3, 5)]
    report = check([("train", write(tmp_path / "train.jsonl", texts))], Limits(template, 32, "error", 2048))
    (file,) = report.files
    assert report.errors == ()
    assert (file.format, file.rows, file.roles, file.messages_per_row) == ("text", 2, {}, None)
    chunks = [chunk for each in document_chunks(template, texts, 32) for chunk in each]
    assert file.fitted is not None
    assert file.tokens_per_row is not None
    assert file.trained_tokens_per_row is not None
    assert file.fitted.tokens == file.tokens_per_row.total == sum(len(chunk.ids) for chunk in chunks)
    assert file.trained_tokens_per_row.total == sum(len(template.encode(text)) + 1 for text in texts)
    assert file.fitted.longest <= 32
    shown = report.inspected[0].tokens
    assert [token.trained for token in shown] == [False] + [True] * (len(shown) - 1)
    assert "".join(token.text for token in shown) == f"<|im_end|>{texts[0]}<|im_end|>"


def test_what_is_wrong_with_texts_is_told_at_its_line(tmp_path: Path) -> None:
    rows = [
        json.dumps({"text": document(30)}),
        json.dumps({"text": " \n"}),
        json.dumps({"text": "Lost � in � decoding"}),
        json.dumps({"text": "It’s a café – 20 °C".encode().decode("cp1252")}, ensure_ascii=False),
        json.dumps({"text": "It’s a café – 20 °C, Ã la carte, Â§"}, ensure_ascii=False),
        json.dumps({"text": document(30, 4), "label": 1}),
        json.dumps({"text": 7}),
        json.dumps({"text": f"Write to jane.doe@company.com. {document(9, 8)}"}),
        json.dumps({"text": document(30)}),
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    report = check([("train", path)])
    assert {(found.code, found.line, found.param) for found in report.findings} == {
        ("empty_text", 2, "text"),
        ("replacement_character", 3, "text"),
        ("mojibake", 4, "text"),
        ("mojibake", 5, "text"),
        ("unknown_field", 6, "label"),
        ("wrong_type", 7, "text"),
        ("personal_data", 8, "text"),
        ("duplicate", 9, None),
    }
    assert report.files[0].exact_duplicates == 1


def test_good_text_in_many_languages_is_no_mojibake(tmp_path: Path) -> None:
    texts = ["Große Ärmel, à la carte", "São Paulo, NÃO, Âncora", "“Привет”, 日本語 – naïve", "10 °C ± 2 µm, Ã and ð"]
    assert check([("train", write(tmp_path / "train.jsonl", texts))]).findings == ()


def test_a_document_that_stands_in_both_files_has_leaked_exact_or_nearly(tmp_path: Path) -> None:
    texts = [f"{document(60, number)} number {number}" for number in range(0, 12, 4)]
    train = write(tmp_path / "train.jsonl", texts)
    valid = write(tmp_path / "valid.jsonl", [texts[1], f"{texts[2]}!", "Nothing of the kind stands there at all."])
    leaked = check([("train", train), ("valid", valid)]).leakage
    assert [(row.line, row.source_line, row.similarity == 1) for row in leaked] == [(1, 2, True), (2, 3, False)]


def test_plain_text_is_refused_where_conversations_are_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose the method pretraining") as caught:
        list(read_examples(write(tmp_path / "train.jsonl", ["Once upon a time"])))
    assert caught.value.code == "plain_text"
    assert list(read_conversations(tmp_path / "train.jsonl")) == []
