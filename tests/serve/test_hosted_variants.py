"""What is hosted of each variant of LoRA is what was trained: text as PEFT writes it on the unchanged base model."""

from pathlib import Path

import pytest
import torch

from modeling.test_frozen_pairs import VARIANTS, adapted, save
from serve.test_engine import generation, references, tokens
from tunewise.contracts.run import BaseModelRef
from tunewise.serve.local import LocalEngine

PROMPTS = [tuple(range(1000, 1000 + length)) for length in (5, 40, 17)]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_greedy_tokens_of_every_variant_equal_pefts_all_in_one_batch(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    places = {name: tmp_path / name.replace(" ", "-") for name in VARIANTS}
    for name, place in places.items():
        place.mkdir()
        save(adapted(tiny_model, VARIANTS[name]), place)
    wanted: list[tuple[tuple[int, ...], str | None]] = [(prompt, name) for prompt in PROMPTS for name in VARIANTS]
    theirs = []
    for name, place in places.items():
        theirs += references(tiny_model.path, {name: place}, [one for one in wanted if one[1] == name])
    with LocalEngine(tiny_model.path, torch.float32) as local:
        for name, place in places.items():
            local.engine.load_adapter(name, place)
        ours = local.generate([generation(prompt, name, top_logprobs=0) for prompt, name in wanted])
    found = {
        name: [tokens(one) for one, (_, own) in zip(ours, wanted, strict=True) if own == name] for name in VARIANTS
    }
    assert [row for name in VARIANTS for row in found[name]] == theirs
    assert len({tuple(row) for row in theirs}) > len(PROMPTS)
