"""Text is released in whole characters and never shows a beginning of a stop string."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tunewise.contracts.run import BaseModelRef
from tunewise.data.template import Template
from tunewise.serve.text import TextStream
from tunewise.serve.tokens import TokenBytes


def decode_bytes(ids: Sequence[int]) -> str:
    """Tokens that are single bytes: the hardest case for whole characters."""
    return bytes(ids).decode(errors="replace")


def shown(text: str, stop: Sequence[str] = ()) -> tuple[str, list[str], bool]:
    stream = TextStream(decode_bytes, stop)
    pieces = []
    for token in text.encode():
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    return "".join(pieces), pieces, stream.stopped


@given(st.text(st.characters(codec="utf-8", exclude_characters="\ufffd")))
def test_pieces_are_whole_characters_and_make_up_the_text(text: str) -> None:
    whole, pieces, _ = shown(text)
    assert whole == text
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.text("abé€"), st.lists(st.text("abé€", min_size=1, max_size=4), min_size=1, max_size=4))
def test_text_ends_before_the_first_stop_string_and_none_of_it_was_shown(text: str, stop: list[str]) -> None:
    whole, _, stopped = shown(text, stop)
    assert stopped == any(one in text for one in stop)
    assert not any(one in whole for one in stop)
    assert text.startswith(whole)
    if stopped:
        # It stops at the first token that completes a stop string, and shows nothing from where one begins.
        end = min(text.find(one) + len(one) for one in stop if one in text)
        assert whole == text[: min(place for one in stop if (place := text[:end].find(one)) >= 0)]
    else:
        assert whole == text


def test_text_that_cannot_become_a_stop_string_is_shown_at_once() -> None:
    stream = TextStream(decode_bytes, ["END"])
    assert [stream.push(token) for token in b"aENbE"] == ["a", "", "", "ENb", ""]
    assert stream.finish() == "E"


def test_bytes_of_tokens_make_up_the_text(smollm2: BaseModelRef) -> None:
    template = Template.load(smollm2.path)
    tokens = TokenBytes(template.tokenizer)
    text = "Crème brûlée 🍮 — 2 c. sugar\n\tфлан 布丁"
    ids = template.encode(text)
    assert b"".join(tokens[token] for token in ids).decode() == text
    stream = TextStream(template.decode, [])
    assert "".join([*(stream.push(token) for token in ids), stream.finish()]) == text
