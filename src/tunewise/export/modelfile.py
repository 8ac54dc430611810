"""The Modelfile with which Ollama takes in a GGUF file. Ollama's templates are Go's, and there is one for each family.

Knows chat templates by the control tokens in them; nothing of weights. Go's templates are not run here: what the
export's tests hold this to is the base model's own rendering of a conversation.
"""

from pathlib import Path
from typing import NamedTuple

from tunewise.contracts.chat import UserMessage
from tunewise.data.template import MARK, Template, chat_template

MODELFILE = "Modelfile"


class Style(NamedTuple):
    """How turns are written: `{role}` and `{text}` between control tokens, and how an answer is opened and ended."""

    sign: str
    turn: str
    opening: str
    end: str
    system: bool = True


STYLES = (
    Style("<|im_start|>", "<|im_start|>{role}\n{text}<|im_end|>\n", "<|im_start|>assistant\n", "<|im_end|>\n"),
    Style(
        "<|start_header_id|>",
        "<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    Style(
        "<start_of_turn>",
        "<start_of_turn>{role}\n{text}<end_of_turn>\n",
        "<start_of_turn>model\n",
        "<end_of_turn>\n",
        False,
    ),
)


def modelfile(gguf_name: str, template: Template, directory: Path) -> str:
    """The file's text; a template of no known style is left out, and a line says so."""
    source = chat_template(directory)
    style = next((style for style in STYLES if style.sign in source), None)
    lines = [f"FROM ./{gguf_name}"]
    if style is None:
        lines.append("# The chat template in the GGUF file is of no style that is known here: write a TEMPLATE for it.")
    else:
        lines.append(f'TEMPLATE """{_go(style)}"""')
        default = default_system(style, template)
        lines += [f'SYSTEM """{default}"""'] if default else []
    lines += [f'PARAMETER stop "{template.tokenizer.id_to_token(stop)}"' for stop in sorted(template.stop_ids)]
    return "\n".join([*lines, "PARAMETER temperature 0", ""])


def default_system(style: Style, template: Template) -> str | None:
    """What the template has a system say where a conversation has none."""
    if not style.system:
        return None
    text = template.decode(template.prompt_ids([UserMessage(content=MARK)]), skip_special=False)
    before, _, after = style.turn.format(role="system", text=MARK).partition(MARK)
    _, found, rest = text.partition(before)
    return rest.partition(after)[0] if found else None


def _go(style: Style) -> str:
    """Go's text/template, over Ollama's list of messages; Gemma has no system, whose words open the first question."""
    answer = style.opening + "{{ .Content }}" + style.end
    if not style.system:
        user = style.turn.format(
            role="user", text="{{ if and (eq $i 0) $.System }}{{ $.System }}\n\n{{ end }}{{ .Content }}"
        )
        return (
            "{{ range $i, $_ := .Messages }}"
            f'{{{{ if eq .Role "user" }}}}{user}{{{{ else if eq .Role "assistant" }}}}{answer}{{{{ end }}}}'
            f"{{{{ end }}}}{style.opening}"
        )
    system = style.turn.format(role="system", text="{{ .System }}")
    user = style.turn.format(role="user", text="{{ .Content }}")
    return (
        f"{{{{ if .System }}}}{system}{{{{ end }}}}{{{{ range .Messages }}}}"
        f'{{{{ if eq .Role "user" }}}}{user}{{{{ else if eq .Role "assistant" }}}}{answer}{{{{ end }}}}'
        f"{{{{ end }}}}{style.opening}"
    )
