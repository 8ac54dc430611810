"""Rendering: chat examples to token ids and a loss mask, and prompts to the very same ids.

Knows one base model's tokenizer and chat template; knows nothing of weights, batches or data files.

A conversation is rendered to text once and cut where a generation prompt would end, before each assistant turn; the
pieces are tokenised one by one. So what `prompt_ids` gives when a model is served is, id for id, a prefix of what
`render` gave when it was trained, also where a tokenizer would have merged the prompt's last characters with the
answer's first. Everywhere else the ids equal `apply_chat_template(tokenize=True)`. What the template cannot express
(tool calls, above all) is put into text first: see `conversation`.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, assert_never

import jinja2
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from tunewise.contracts.chat import AssistantMessage, ChatExample, Json, Message, Tool
from tunewise.contracts.fine_tuning import LossOn
from tunewise.data import conversation
from tunewise.data.conversation import Turn
from tunewise.data.sandbox import Renderer, renderer
from tunewise.errors import DataError, ModelError

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MARK = "zqmark"  # text that no template contains by itself


class Rendered(NamedTuple):
    """One training row: `ids` (tokens,) and `mask` (tokens,), 1 where the token is trained on."""

    ids: list[int]
    mask: list[int]


class Piece(NamedTuple):
    """A stretch of a conversation's text.

    `is_answer`: it begins with an assistant's text; `trained`: which carries loss, and so may what stands `around` it.
    `rewritten`: the number of an answer's message whose prompt would look otherwise than what stands before it here;
    such a piece has no text.
    """

    text: str
    is_answer: bool
    trained: bool
    around: bool = False
    rewritten: int | None = None


class Template:
    """One base model's tokenizer and chat template. `stop_ids`: generation ends at any of these; `turn_end` are those
    that the template puts after an answer.

    `bos` and `eos`: what stands before and after a document, as ids; empty where the model has no such token.
    `adds_blanks`: its tokenizer puts a blank before a text, and takes it away again when it decodes.
    """

    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    turn_end: frozenset[int]
    bos: list[int]
    eos: list[int]

    def __init__(self, tokenizer: Tokenizer, render: Renderer, stop_ids: frozenset[int], eos: list[int]) -> None:
        self.tokenizer = tokenizer
        # Some tokenizers put the end token after every text as well.
        self.bos = [i for i in tokenizer.encode("", add_special_tokens=True).ids if i not in eos]
        self.eos = eos
        self._render = render
        self._abilities = conversation.probe(render)
        self.adds_blanks = _context_matters(tokenizer)
        self._control = _control_pattern(tokenizer) if self.adds_blanks else None
        self.turn_end = self._turn_end()
        self.stop_ids = stop_ids | self.turn_end

    @classmethod
    def load(cls, directory: Path) -> "Template":
        """Read `tokenizer.json`, the chat template and the end tokens from a model directory.

        Raises:
            ModelError: no_tokenizer, no_chat_template or invalid_chat_template.
        """
        file = directory / "tokenizer.json"
        if not file.is_file():
            raise ModelError("no_tokenizer", f"{directory}: no tokenizer.json here; pull the base model again")
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        config = _read_json(directory / "tokenizer_config.json")
        try:
            render = renderer(_template_source(directory, config), _special_tokens(config))
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(
                "invalid_chat_template", f"{directory}: the chat template does not compile: {error}"
            ) from error
        eos = tokenizer.token_to_id(_token_text(config.get("eos_token")) or "")
        return cls(tokenizer, render, _configured_stops(directory, config, tokenizer), [] if eos is None else [eos])

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> list[int]:
        """The ids of a conversation so far and the opening of the assistant's next turn.

        Raises:
            DataError: the template refuses the conversation.
        """
        pieces = list(self._pieces(messages, list(tools or ()), prompt=True))
        return [i for ids in self._encode_pieces(pieces) for i in ids]

    def render(self, example: ChatExample, loss_on: LossOn = "assistant") -> Rendered:
        """Render one example; the mask covers each trained assistant message and the token that ends it.

        With `loss_on` "last_assistant" it covers no answer but the last, with "all" every token but the first. Answers
        of weight 0 are never covered.

        Raises:
            DataError: nothing_to_train_on, or the template refuses the conversation.
        """
        (rendered,) = self.render_batch([example], loss_on)
        if isinstance(rendered, DataError):
            raise rendered
        return rendered

    def render_batch(
        self, examples: Sequence[ChatExample], loss_on: LossOn = "assistant"
    ) -> list[Rendered | DataError]:
        """Render many examples, in parallel; a row that cannot be trained on is an error in its place."""
        planned = [self._plan(example, loss_on) for example in examples]
        encoded = iter(self._encode_pieces([p for plan in planned if not isinstance(plan, DataError) for p in plan]))
        return [plan if isinstance(plan, DataError) else self._assemble(plan, encoded) for plan in planned]

    def encode(self, text: str) -> list[int]:
        """Text to ids; control tokens in it count as such, and none is added."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Ids to text."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token; their concatenation is the whole text.

        A character that spans several tokens stands at the last of them, and the others are empty.
        """
        stream = DecodeStream(skip_special_tokens=False)
        texts = [stream.step(self.tokenizer, i) or "" for i in ids]
        rest = self.decode(ids, skip_special=False)[sum(map(len, texts)) :]
        return [*texts[:-1], texts[-1] + rest] if texts else []

    def _plan(self, example: ChatExample, loss_on: LossOn) -> list[Piece] | DataError:
        try:
            tools = conversation.tools_of(example.tools, example.functions)
            pieces = _with_loss(list(self._pieces(example.messages, tools, prompt=False)), loss_on)
        except DataError as error:
            return error
        if not any(piece.trained for piece in pieces):
            return _nothing_to_train_on(loss_on)
        rewritten = next((p.rewritten for p in pieces if p.trained and p.rewritten is not None), None)
        return pieces if rewritten is None else _rewritten_history(rewritten)

    def _pieces(self, messages: Sequence[Message], tools: list[Tool], *, prompt: bool) -> Iterator[Piece]:
        """Cut the rendered text where each assistant turn's generation prompt ends."""
        turns = conversation.to_turns(messages, tools, self._abilities)
        given = conversation.tool_dicts(tools) if tools and self._abilities.tools else None
        text = self._text(turns, given, add_generation_prompt=prompt)
        places = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
        answers = [(index, m) for index, m in enumerate(messages) if isinstance(m, AssistantMessage)]
        start, is_answer, trained = 0, False, False
        rewritten: list[Piece] = []
        for place, (index, answer) in zip(places, answers, strict=True):
            opening = self._opening(turns[:place], given)
            if not text.startswith(opening):
                rewritten.append(Piece("", is_answer=True, trained=answer.weight != 0, rewritten=index))
                continue
            yield from (Piece(text[start : len(opening)], is_answer, trained), *rewritten)
            start, is_answer, trained, rewritten = len(opening), True, answer.weight != 0, []
        yield from (Piece(text[start:], is_answer, trained), *rewritten)

    def _opening(self, turns: list[Turn], tools: list[dict[str, Any]] | None) -> str:
        """The text before an assistant's answer to `turns`."""
        if turns:
            return self._text(turns, tools, add_generation_prompt=True)
        # Templates put a system turn of their own before a first message, and read messages[0].
        return self._text([{"role": "assistant", "content": MARK}], tools, add_generation_prompt=False).split(MARK)[0]

    def _text(self, turns: list[Turn], tools: list[dict[str, Any]] | None, *, add_generation_prompt: bool) -> str:
        try:
            return self._render(turns, tools, add_generation_prompt)
        except (jinja2.TemplateError, TypeError) as error:
            raise DataError(
                "template_refuses",
                f"the base model's chat template refuses this conversation: {error}; change the row or the base model",
                param="messages",
            ) from error

    def _encode_pieces(self, pieces: Sequence[Piece]) -> list[list[int]]:
        leads: list[str] = []
        before = ""
        for piece in pieces:
            leads.append(self._lead(before) if piece.is_answer else "")
            before = piece.text or before
        texts = [lead + piece.text for lead, piece in zip(leads, pieces, strict=True)]
        encoded = [e.ids for e in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        cuts = {lead: len(self.encode(lead)) for lead in set(leads)}
        return [ids[cuts[lead] :] for lead, ids in zip(leads, encoded, strict=True)]

    def _lead(self, before: str) -> str:
        """What to encode before an answer and cut off again: from the last control token of the text before it."""
        if self._control is None:
            return ""
        last = max((match.start() for match in self._control.finditer(before)), default=None)
        return "\n" if last is None else before[last:]

    def _assemble(self, plan: list[Piece], encoded: Iterator[list[int]]) -> Rendered:
        ids: list[int] = []
        mask: list[int] = []
        for piece in plan:
            new = next(encoded)
            answer = self._answer_length(new) if piece.is_answer else 0
            ids += new
            mask += [int(piece.trained)] * answer + [int(piece.around)] * (len(new) - answer)
        if mask:
            mask[0] = 0  # Nothing stands before it that it could be predicted from.
        return Rendered(ids, mask)

    def _answer_length(self, ids: list[int]) -> int:
        """Up to and with the first end token; what follows opens the next turn."""
        return next((n for n, i in enumerate(ids, start=1) if i in self.stop_ids), len(ids))

    def _turn_end(self) -> frozenset[int]:
        """The control token that the template puts after an answer: not every model's config names it."""
        turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": MARK}]
        after = self.encode(self._text(turns, None, add_generation_prompt=False).rpartition(MARK)[2])
        special = {i for i, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}
        return frozenset(after[:1]) & special


def _with_loss(pieces: list[Piece], loss_on: LossOn) -> list[Piece]:
    """The pieces, marked with what of them carries loss."""
    match loss_on:
        case "assistant":
            return pieces
        case "last_assistant":
            last = max((at for at, piece in enumerate(pieces) if piece.is_answer), default=0)
            return [piece._replace(trained=piece.trained and at == last) for at, piece in enumerate(pieces)]
        case "all":
            return [piece._replace(around=True) for piece in pieces]
        case _:
            assert_never(loss_on)


def _nothing_to_train_on(loss_on: LossOn) -> DataError:
    if loss_on == "last_assistant":
        words = "the last assistant message has weight 0, and loss_on is last_assistant; give it weight 1, or choose"
        return DataError("nothing_to_train_on", f"{words} assistant", param="messages")
    return DataError(
        "nothing_to_train_on",
        "no assistant message with weight other than 0; add an answer or remove the row",
        param="messages",
    )


def _rewritten_history(index: int) -> DataError:
    return DataError(
        "template_rewrites_history",
        f"messages[{index}]: the base model's chat template renders the turns before this answer differently once "
        "the answer is there, so no prompt would look like this row; end the row with this answer, or set its weight "
        "to 0 and train on it in a row of its own, or train on last answers only (loss_on: last_assistant)",
        param=f"messages[{index}]",
    )


def _context_matters(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer puts a blank before any text that it is given, as SentencePiece models do."""
    plain, newline, after = (tokenizer.encode(t, add_special_tokens=False).ids for t in (MARK, "\n", "\n" + MARK))
    return bool(after != newline + plain)


def _control_pattern(tokenizer: Tokenizer) -> re.Pattern[str]:
    texts = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    value = json.loads(file.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}


def _token_text(value: Json) -> str | None:
    """A special token in a config: a string, or an object with the string as `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    found = {name: _token_text(config.get(name)) for name in SPECIAL_TOKENS}
    return {name: text for name, text in found.items() if text is not None}


def chat_template(directory: Path) -> str:
    """The source of a model directory's chat template.

    Raises:
        ModelError: no_chat_template.
    """
    return _template_source(directory, _read_json(directory / "tokenizer_config.json"))


def _template_source(directory: Path, config: dict[str, Any]) -> str:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    source = config.get("chat_template") or _read_json(directory / "chat_template.json").get("chat_template")
    if isinstance(source, list):
        # Several templates by name: [{"name": "default", "template": ...}, ...]
        source = next((entry["template"] for entry in source if entry["name"] == "default"), None)
    if not isinstance(source, str):
        raise ModelError(
            "no_chat_template",
            f"{directory}: the base model has no chat template (chat_template.jinja); choose an instruct model",
        )
    return source


def _configured_stops(directory: Path, config: dict[str, Any], tokenizer: Tokenizer) -> frozenset[int]:
    stops: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = _read_json(directory / name).get("eos_token_id")
        stops |= set(value) if isinstance(value, list) else {value} if isinstance(value, int) else set()
    eos = _token_text(config.get("eos_token"))
    eos_id = None if eos is None else tokenizer.token_to_id(eos)
    return frozenset(stops if eos_id is None else stops | {eos_id})
