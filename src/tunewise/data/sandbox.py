"""The sandbox that chat templates run in: the conventions of transformers' `apply_chat_template`, without transformers.

A template comes with a model and is code of a stranger, so it runs in Jinja's immutable sandbox and sees nothing but
plain JSON values. Knows nothing of tokenizers. Mirrors `transformers/utils/chat_template_utils.py` (5.x), but for two
things. What a template calls today is always the same day: a row's ids may not change between a run and its resumption,
or between training and hosting. And a model that can think before it answers is told not to: rows hold no thoughts.
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from tunewise.contracts.chat import Json

TODAY = datetime(2025, 1, 1)  # templates print no zone


class GenerationBlock(jinja2.ext.Extension):
    """Accepts `{% generation %}…{% endgeneration %}`, which some templates put around assistant text, as plain text."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Replace the block by its body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compile_template(source: str) -> jinja2.Template:
    """Compile a chat template.

    Raises:
        jinja2.TemplateSyntaxError: the source is no Jinja template.
    """
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return TODAY.strftime(layout)


def _tojson(
    value: Json,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes <, > and & for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


Renderer = Callable[[list[dict[str, Any]], list[dict[str, Any]] | None, bool], str]
"""(messages, tools, add_generation_prompt) → text."""


def renderer(source: str, special_tokens: dict[str, str]) -> Renderer:
    """The template as a function; `special_tokens` (bos_token, eos_token, ...) are variables in it."""
    template = compile_template(source)

    def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, add_generation_prompt: bool) -> str:
        return template.render(
            messages=messages,
            tools=tools,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=False,
            **special_tokens,
        )

    return render
