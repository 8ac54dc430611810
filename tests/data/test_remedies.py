"""Mended copies: nothing but what was asked for changes, and parts never share a row."""

import json
import random
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunewise.contracts.check import Split
from tunewise.data.check import check
from tunewise.data.privacy import redact
from tunewise.data.remedies import dealt, masked, without_lines

SECRETS = [
    "sk-" + "a1B2" * 10,
    "AKIA" + "ABCDEFGH12345678",
    "jo.doe+x@firm-name.de",
    "+49 30 1234 5678",
    "4111 1111 1111 1111",
]


def row(question: str, answer: str) -> bytes:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}, ensure_ascii=False).encode()


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=30), dropped=st.sets(st.integers(1, 30)))
def test_the_lines_that_stay_are_the_same_bytes(tmp_path: Path, texts: list[str], dropped: set[int]) -> None:
    lines = [row(text, "yes") for text in texts]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    kept = bytearray()
    gone = without_lines(path, dropped, kept.extend)
    expected = [line for number, line in enumerate(lines, start=1) if number not in dropped]
    assert bytes(kept) == b"".join(line + b"\n" for line in expected)
    assert gone == len(lines) - len(expected)


@settings(max_examples=100)
@given(
    before=st.text(st.characters(codec="utf-8"), max_size=20),
    secret=st.sampled_from(SECRETS),
    after=st.text(st.characters(codec="utf-8"), max_size=20),
)
def test_a_masked_row_is_valid_json_and_holds_no_secret(before: str, secret: str, after: str) -> None:
    line = row(f"{before} {secret} {after}", "noted")
    clean, count = redact(line)
    content = msgspec.json.decode(clean)["messages"][0]["content"]
    assert secret not in content
    assert count >= 1
    assert redact(clean)[0] == clean


def test_several_secrets_in_a_row_are_all_masked_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(row("write to a@b.io, or c@d.io\nor ring 212-555-0123", "I will") + b"\n" + row("no secret", "no"))
    out = bytearray()
    assert masked(path, out.extend) == 3
    first, second = bytes(out).splitlines()
    assert json.loads(first)["messages"][0]["content"] == "write to [removed], or [removed]\nor ring [removed]"
    assert second == row("no secret", "no")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.integers(0, 40), min_size=10, max_size=120),
    shares=st.sampled_from([(0.7, 0.1, 0.2), (0.5, 0.5), (0.9, 0.1)]),
)
def test_parts_hold_every_row_once_and_equal_rows_stay_together(
    tmp_path: Path, kinds: list[int], shares: tuple[float, ...]
) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [row(f"question {kind}", "yes") for kind in kinds]
    path.write_bytes(b"\n".join(lines))
    parts = [bytearray() for _ in shares]
    counts = dealt(path, shares, [part.extend for part in parts])
    held = [bytes(part).splitlines() for part in parts]
    assert counts == [len(part) for part in held]
    assert sorted(line for part in held for line in part) == sorted(lines)
    for index, part in enumerate(held):
        for other in held[index + 1 :]:
            assert not set(part) & set(other)


def test_the_shares_of_distinct_rows_are_met_and_the_draw_is_the_same_each_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(row(f"question {n}", "yes") for n in range(1000)))
    parts = [bytearray() for _ in range(3)]
    assert dealt(path, (0.7, 0.1, 0.2), [part.extend for part in parts]) == [700, 100, 200]
    again = [bytearray() for _ in range(3)]
    dealt(path, (0.7, 0.1, 0.2), [part.extend for part in again])
    assert again == parts
    in_a_row = b"".join(row(f"question {n}", "yes") + b"\n" for n in range(700, 800))
    assert bytes(parts[1]) != in_a_row


DRAW = random.Random(11)
WORDS = ["".join(DRAW.choices("abcdefghijklmnop", k=DRAW.randint(3, 9))) for _ in range(3000)]


def told(seed: int, changes: int = 0) -> str:
    """A sentence of its own for each seed, with so many of its words changed."""
    draw = random.Random(seed)
    words = draw.choices(WORDS, k=50)
    for place in range(changes):
        words[7 * place] = "changed"
    return " ".join(words)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), st.booleans()), min_size=20, max_size=80),
    fixed=st.booleans(),
)
def test_no_part_leaks_into_another(tmp_path: Path, kinds: list[tuple[int, int, bool]], fixed: bool) -> None:
    """Rows of few kinds: near copies, the same question with another answer, and perhaps one question asked of all."""
    path = tmp_path / "rows.jsonl"
    question = "Go on." if fixed else "{}"
    rows = [
        row(question.format(told(kind, changes)) + (told(kind, changes) if fixed else ""), "no" if other else "yes")
        for kind, changes, other in kinds
    ]
    path.write_bytes(b"\n".join(rows))
    parts = [tmp_path / f"{name}.jsonl" for name in ("train", "valid", "test")]
    outs = [bytearray() for _ in parts]
    counts = dealt(path, (0.6, 0.2, 0.2), [out.extend for out in outs])
    for part, out in zip(parts, outs, strict=True):
        part.write_bytes(out)
    assert sum(counts) == len(rows)
    splits: list[Split] = ["train", "valid", "test"]
    held = [(split, part) for split, part, count in zip(splits, parts, counts, strict=True) if count]
    assert check(held).leakage == ()
    if len({kind for kind, _, _ in kinds}) > 10:
        assert len(held) == 3


def test_near_copies_are_kept_together_and_the_shares_are_met_about(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(row(told(kind, copy), "yes") for kind in range(100) for copy in range(3)))
    parts = [bytearray() for _ in range(3)]
    counts = dealt(path, (0.7, 0.1, 0.2), [part.extend for part in parts])
    assert counts == [210, 30, 60]


def test_a_group_larger_than_the_parts_leaves_none_of_them_empty(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b"\n".join(row("the same", f"answer {n}") for n in range(80))
        + b"\n"
        + b"\n".join(row(told(n), "yes") for n in range(20))
    )
    parts = [bytearray() for _ in range(3)]
    counts = dealt(path, (0.7, 0.1, 0.2), [part.extend for part in parts])
    assert sum(counts) == 100
    assert counts[0] >= 80
    assert min(counts) >= 5


def test_lines_that_are_no_rows_are_dealt_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([*(row(told(n), "yes") for n in range(10)), *[b"{broken"] * 10]))
    parts = [bytearray() for _ in range(2)]
    assert sum(dealt(path, (0.5, 0.5), [part.extend for part in parts])) == 20
    assert [part.count(b"{broken") for part in parts] in ([0, 10], [10, 0])


def test_short_questions_of_one_form_are_dealt_apart(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    colours = ("red", "green", "blue")
    path.write_bytes(
        b"\n".join(
            row(f"What colour has thing {n}, the {'big' if n % 2 else 'small'} one?", colours[n % 3]) for n in range(60)
        )
    )
    parts = [bytearray() for _ in range(3)]
    counts = dealt(path, (0.7, 0.1, 0.2), [part.extend for part in parts])
    assert all(abs(count - wanted) <= 2 for count, wanted in zip(counts, (42, 6, 12), strict=True))
    assert all(colour.encode() in parts[2] for colour in colours)
