"""Forms of answers, made ready for one hosted model: grammars for its tokenizer, and readers of the calls it writes.

Knows the model's template; knows nothing of the engine. What takes time is kept; all of it may be called in any thread.
"""

from functools import cached_property
from typing import NamedTuple

from tunewise.data.template import Template
from tunewise.errors import ConfigError
from tunewise.serve.call_reader import CallReader
from tunewise.serve.call_styles import CallWriter, Style, call_writer, lark
from tunewise.serve.grammars import Grammar, Grammars, check_schema
from tunewise.serve.text import Decode
from tunewise.serve.wire_forms import Form


class Calls(NamedTuple):
    """How the calls in an answer are read."""

    style: Style
    names: frozenset[str]
    most: int | None

    def reader(self) -> CallReader:
        """A reader for one answer."""
        return CallReader(self.style, self.names, self.most)


class Prepared(NamedTuple):
    """A form, ready: the grammar of its answers, how they become text, how calls are read; each may be None."""

    grammar: Grammar | None = None
    decode: Decode | None = None
    calls: Calls | None = None


class Forms:
    """What one template and tokenizer need. `vocabulary`: the rows of the model's head."""

    def __init__(self, template: Template, vocabulary: int) -> None:
        self._template = template
        self._grammars = Grammars(template.tokenizer, template.stop_ids, vocabulary)

    @cached_property
    def writer(self) -> CallWriter:
        """How the model writes calls."""
        return call_writer(self._template)

    def prepare(self, form: Form) -> Prepared:
        """Compile and set up; takes a second at its first use, a millisecond for a new schema.

        Raises:
            ConfigError: a schema that cannot be enforced, or tools for a template whose calls cannot be read back.
        """
        if form.schema is None and form.choice == "none":
            return Prepared()
        _check_schemas(form)
        if form.choice == "none":
            return Prepared(self._grammar(form))
        style = self.writer.style
        if style is None:
            message = "tools: this model's chat template prints calls in a way that this server cannot read back"
            raise ConfigError("unsupported_parameter", message, param="tools")
        names = frozenset(tool.function.name for _, tool in form.callable_tools())
        most = None if form.parallel and form.name is None else 1
        return Prepared(self._grammar(form), self._decode if self.writer.control else None, Calls(style, names, most))

    def _grammar(self, form: Form) -> Grammar | None:
        text = lark(form, self.writer)
        return None if text is None else self._grammars.compiled(text, form.schema_param or "tools")

    @cached_property
    def _decode(self) -> Decode:
        """Decoding that shows the control tokens of calls, and no other."""
        added, decode = self._template.tokenizer.get_added_tokens_decoder(), self._template.decode
        hidden = {i for i, token in added.items() if token.special} - set(self.writer.control.values())
        return lambda ids: decode([i for i in ids if i not in hidden], skip_special=False)


def _check_schemas(form: Form) -> None:
    if form.schema is not None:
        check_schema(form.schema, form.schema_param)
    for at, tool in form.callable_tools():
        is_enforced = form.choice == "required" or form.schema is not None or tool.function.strict
        if is_enforced and tool.function.parameters is not None:
            check_schema(tool.function.parameters, f"tools[{at}].function.parameters")
