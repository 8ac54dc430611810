"""Preferences to train on: pairs, answers with a label, and a base model whose template ends where an answer ends."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, LlamaForCausalLM

from train.making import WORDS
from tunewise.catalogue import find
from tunewise.contracts.run import BaseModelRef, LoraSpec
from tunewise.settings import Settings
from tunewise.train.criterion import Unit
from tunewise.train.methods.answers import score_apart
from tunewise.train.reference import with_reference

VOCABULARY = 1024
SPEC = LoraSpec(rank=4, alpha=8.0, dropout=0.0, targets="all-linear")
END_OF_TURN = "'<|im_end|>' + '\n'"


def question(number: int) -> list[dict[str, str]]:
    """A question of its own length; each third is the second of its conversation."""
    words = [WORDS[(number * 7 + place * (number + 3)) % len(WORDS)] for place in range(1 + number % 4)]
    asked = {"role": "user", "content": f"List {number}: {' '.join(words)}"}
    before = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": f"Hello, {number}"}]
    return [*before, asked] if number % 3 == 2 else [asked]


def answers(number: int) -> tuple[str, str]:
    """A better answer, and a worse one of another length."""
    kept = [word for word in WORDS if (number + len(word)) % 3]
    return ", ".join(sorted(kept[: 2 + number % 4])), " and ".join(kept[number % 5 :])


def pair(number: int, **fields: Any) -> str:  # noqa: ANN401
    """A line with a preference pair."""
    better, worse = answers(number)
    return json.dumps(
        {
            "input": {"messages": question(number)},
            "preferred_output": [{"role": "assistant", "content": better}],
            "non_preferred_output": [{"role": "assistant", "content": worse}],
            **fields,
        }
    )


def labelled(number: int) -> str:
    """A line with an answer and its label; two lines in turn answer the same question."""
    label = number % 2 == 0
    better, worse = answers(number // 2)
    answer = {"role": "assistant", "content": better if label else worse}
    return json.dumps({"messages": [*question(number // 2), answer], "label": label})


def small_model(tiny: BaseModelRef, directory: Path) -> BaseModelRef:
    """The tiny model with the first 1,024 tokens only, and a template that writes nothing after the last answer's end.

    TRL computes an answer's log-probability a few positions and tokens of the vocabulary at a time, which takes ten
    minutes of a test on a CPU with all 49,152. And it trains on all that the template writes after a prompt, so on the
    line feed behind the token that ends an answer as well: no engine ever generates it, and no row here trains on it.
    """
    shutil.copytree(tiny.path, directory)
    template = directory / "chat_template.jinja"
    text = template.read_text()
    assert END_OF_TURN in text
    ends = "'<|im_end|>' + ('' if loop.last and not add_generation_prompt else '\n')"
    template.write_text(text.replace(END_OF_TURN, ends))
    tokenizer = json.loads((directory / "tokenizer.json").read_bytes())
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    kept = {token: number for token, number in vocabulary.items() if number < VOCABULARY}
    tokenizer["model"] |= {"vocab": kept, "merges": [pair for pair in merges if "".join(pair) in kept]}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = AutoConfig.from_pretrained(tiny.path)
    config.vocab_size = VOCABULARY
    with torch.random.fork_rng():
        torch.manual_seed(7)
        LlamaForCausalLM(config).save_pretrained(directory)
    return find(str(directory), Settings(home=directory.parent / "home"))


def referenced(model: Any, units: Sequence[Unit]) -> list[Unit]:  # noqa: ANN401
    """The units with the reference log-probabilities that the model gives them now."""
    return with_reference(units, score_apart(model, [row for unit in units for row in (*unit.rows, *unit.mismatched)]))
