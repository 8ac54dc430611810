"""A model of each family is tuned by the trainer, hosted by the engine, and answers as PEFT and transformers do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from train.making import events_of, make_run, make_spec, result_of, row, train, write_rows
from tunewise.contracts.chat import UserMessage
from tunewise.contracts.run import BaseModelRef
from tunewise.serve.generation import Generation, Sampling
from tunewise.serve.local import LocalEngine

NAMES = ("llama3", "qwen2", "qwen3", "gemma3", "phi3", "phi4", "mistral")
NEW_TOKENS = 60


def tuned(reference: BaseModelRef, directory: Path) -> Path:
    """The run of a training that has seen few rows often enough to know their answers."""
    rows = write_rows(directory / "train.jsonl", [row(number) for number in range(4)] * 10)
    spec = make_spec(reference, rows, n_epochs=3, learning_rate=3e-2, valid_every_steps=100)
    run = make_run(directory / "run", spec)
    assert train(run) == 0
    return run


def generated(reference: BaseModelRef, adapter: Path, prompts: list[list[int]], stops: list[int]) -> list[list[int]]:
    """What transformers and PEFT write."""
    plain = AutoModelForCausalLM.from_pretrained(reference.path, dtype=torch.float32)
    generate: Any = PeftModel.from_pretrained(plain, str(adapter)).generate  # untyped in peft
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        written = generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=0,
        )
        found.append(written[0, len(prompt) :].tolist())
    return found


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss_and_the_engine_writes_what_peft_does(
    name: str, family_model: Callable[[str], BaseModelRef], tmp_path: Path
) -> None:
    reference = family_model(name)
    run = tuned(reference, tmp_path)
    losses = [event.data.train_loss for event in events_of(run) if event.data]
    assert losses[-1] < 0.5 * losses[0]
    adapter = run / (result_of(run).adapter or "")
    with LocalEngine(reference.path, torch.float32) as local:
        questions = [f"List {number}: apple" for number in range(3)]
        prompts = [local.template.prompt_ids([UserMessage(content=question)]) for question in questions]
        local.engine.load_adapter("tuned", adapter)
        greedy = Sampling(0.0, 1.0, 0)
        results = local.generate(
            [Generation(tuple(p), "tuned", 1, NEW_TOKENS, greedy, top_logprobs=0) for p in prompts]
        )
        stops = local.template.stop_ids
        theirs = generated(reference, adapter, prompts, sorted(stops))
        assert [[one.token for one in result.logprobs[0]] for result in results] == [
            ids[:-1] if ids[-1] in stops else ids for ids in theirs
        ]
        assert [result.texts[0] for result in results] == [
            local.template.decode([i for i in ids if i not in stops]) for ids in theirs
        ]
    assert "stop" in {result.finish_reasons[0] for result in results}
