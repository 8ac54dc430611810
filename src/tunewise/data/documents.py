"""Plain text to rows: each document in tokens, cut into chunks, and the chunks laid into blocks of equal size.

A document is followed by the model's end token. It is opened by the token that the tokenizer itself puts before a text
or, where there is none, by the end token, as if another document had just ended; that token carries no loss, and all
others do. Knows a tokenizer; nothing of files or models.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from tunewise.data.template import Rendered, Template


def document_chunks(template: Template, texts: Sequence[str], max_tokens: int) -> list[list[Rendered]]:
    """Each text as rows of at most `max_tokens` tokens, in which every token of the text carries loss exactly once.

    A chunk that goes on with a document begins with the token that the one before ended with, without loss, so that the
    next can be predicted; and before that with the opening token, where the tokenizer has one of its own.
    """
    opening = template.bos or template.eos
    encoded = template.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [list(_cut([*each.ids, *template.eos], opening, template.bos, max_tokens)) for each in encoded]


def _cut(stream: list[int], opening: list[int], bos: list[int], size: int) -> Iterator[Rendered]:
    context, at = opening, 0
    while at < len(stream):
        new = stream[at : at + max(1, size - len(context))]
        yield Rendered([*context, *new], [0] * len(context) + [1] * len(new))
        context = [*bos, new[-1]]
        at += len(new)


def blocks(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Which chunks, by their places, lie in a block together: longest first, each where it leaves least room.

    Best-fit packing (Ding et al. 2024, arXiv:2404.10830): no chunk is cut a second time, and blocks are nearly full.
    """
    filled: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for chunk in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        best = bisect_left(room, (lengths[chunk], -1))
        if best < len(room):
            left, block = room.pop(best)
        else:
            left, block = max_tokens, len(filled)
            filled.append([])
        filled[block].append(chunk)
        insort(room, (left - lengths[chunk], block))
    return [sorted(block) for block in filled]
