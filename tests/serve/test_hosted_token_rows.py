"""Adapters that bring rows of added tokens along are hosted as PEFT computes them, beside others of one base."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from serve.running import peft_warnings
from tunewise.contracts.run import BaseModelRef
from tunewise.errors import ModelError
from tunewise.modeling.token_rows import peft_option
from tunewise.serve.adapters import CONFIG_FILE, read_adapter
from tunewise.serve.generation import Generation, Sampling
from tunewise.serve.local import LocalEngine
from tunewise.serve.network import Network

TOKENS = (8, 12)
PROMPTS = ((30, 8, 40, 41, 12), (12, 12, 33), tuple(range(20, 60)), (8, 50))
NEW_TOKENS = 16


def save(reference: BaseModelRef, directory: Path, seed: int, tokens: tuple[int, ...]) -> None:
    """An adapter of random weights; its rows are so large that their tokens are written."""
    plain = AutoModelForCausalLM.from_pretrained(reference.path, dtype=torch.float32)
    option = peft_option(plain, tokens)
    with peft_warnings():
        shape = LoraConfig(
            task_type="CAUSAL_LM", r=4, target_modules=["o_proj", "down_proj"], trainable_token_indices=option
        )
        tuned = get_peft_model(plain, shape)
    numbers = torch.Generator().manual_seed(seed)
    for name, weight in tuned.named_parameters():
        if weight.requires_grad:
            spread = 1.0 if "trainable_tokens" in name else 0.3
            weight.data.normal_(0.0, spread, generator=numbers)
    tuned.save_pretrained(str(directory))


def reference_tokens(reference: BaseModelRef, adapter: Path, prompt: tuple[int, ...]) -> list[int]:
    """What PEFT writes, computed anew for each token."""
    plain = AutoModelForCausalLM.from_pretrained(reference.path, dtype=torch.float32)
    with peft_warnings():
        tuned = PeftModel.from_pretrained(plain, str(adapter))
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(NEW_TOKENS):
            ids.append(int(tuned(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", ["gemma3", "mistral"])
def test_rows_of_several_adapters_share_a_batch(
    name: str, family_model: Callable[[str], BaseModelRef], tmp_path: Path
) -> None:
    """Tied, scaled and capped; with a head of its own."""
    reference = family_model(name)
    chosen = {"both": TOKENS, "one": TOKENS[:1], "none": ()}
    for seed, (adapter, tokens) in enumerate(chosen.items()):
        save(reference, tmp_path / adapter, seed, tokens)
    wanted = [(prompt, adapter) for prompt in PROMPTS for adapter in chosen]
    with LocalEngine(reference.path, torch.float32) as local:
        for adapter in chosen:
            local.engine.load_adapter(adapter, tmp_path / adapter)
        results = local.generate(
            [
                Generation(prompt, adapter, 1, NEW_TOKENS, Sampling(0.0, 1.0, 0), top_logprobs=0, ignore_eos=True)
                for prompt, adapter in wanted
            ]
        )
    found = [[one.token for one in result.logprobs[0]] for result in results]
    assert found == [reference_tokens(reference, tmp_path / adapter, prompt) for prompt, adapter in wanted]
    assert {token for row in found for token in row} & set(TOKENS)


def test_rows_that_do_not_fit_are_refused(family_model: Callable[[str], BaseModelRef], tmp_path: Path) -> None:
    save(family_model("gemma3"), tmp_path / "adapter", 0, TOKENS)
    config = json.loads((tmp_path / "adapter" / CONFIG_FILE).read_text())
    for indices, code in (([8], "adapter_unreadable"), ([8, 100_000], "adapter_mismatch")):
        config["trainable_token_indices"] = {"embed_tokens": indices}
        (tmp_path / "adapter" / CONFIG_FILE).write_text(json.dumps(config))
        with pytest.raises(ModelError) as refused:
            Network(family_model("gemma3").path, torch.float32).put_adapter(0, read_adapter("a", tmp_path / "adapter"))
        assert refused.value.code == code
