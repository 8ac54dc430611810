"""TRL's trainers as oracles: the loss and the gradient's norm of each step, and the batches that it computed."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Trainer

from train.preferences import SPEC
from tunewise.contracts.run import BaseModelRef
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.lora import add_adapter
from tunewise.train.criterion import Criterion, Unit
from tunewise.train.plan import step_rows
from tunewise.train.step import accumulate_gradients, clip_gradients

BATCH, RATE, SEED = 4, 5e-3, 0


class Told(NamedTuple):
    """Of each step its loss and the norm of its gradient; and the batches, where they were recorded."""

    losses: list[float]
    norms: list[float]
    batches: list[dict[str, torch.Tensor]]


def begun(model: BaseModelRef) -> tuple[PreTrainedModel, PeftModel]:
    """A model under an adapter that has learnt something already, as that of a parent has."""
    base = load_frozen(model, "float32")
    torch.manual_seed(SEED)
    adapted = add_adapter(base, SPEC)
    for up in trained(adapted)[1::2]:
        torch.nn.init.normal_(up, std=0.02)
    return base, adapted


def trained(adapted: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The adapter's weights."""
    return [weight for weight in adapted.parameters() if weight.requires_grad]


def plain(model: BaseModelRef) -> PeftModel:
    """The same model and adapter as transformers and PEFT compute them."""
    base = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(base, config)
    set_peft_model_state_dict(adapted, get_peft_model_state_dict(begun(model)[1]))
    return adapted


def in_order(rows: int, steps: int) -> list[int]:
    """The numbers of the rows of so many steps."""
    return [row for step in range(steps) for row in step_rows(rows, BATCH, seed=SEED, step=step)]


def ours(model: BaseModelRef, units: list[Unit], criterion: Criterion, order: list[int]) -> Told:
    """What this trainer's steps come to, four units each."""
    base, adapted = begun(model)
    weights = trained(adapted)
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0, fused=True)
    told = Told([], [], [])
    for at in range(0, len(order), BATCH):
        told.losses.append(accumulate_gradients(base, criterion, units, order[at : at + BATCH]).loss)
        squares = [weight.grad.double().pow(2).sum() for weight in weights if weight.grad is not None]
        told.norms.append(float(sum(squares) ** 0.5))
        clip_gradients(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return told


def theirs(
    trainer: type[Trainer],
    config: type[Any],
    model: BaseModelRef,
    rows: list[dict[str, Any]],
    directory: Path,
    **settings: object,
) -> Told:
    """What TRL's steps come to on the rows in their order, four of them each."""
    told = Told([], [], [])

    class Recorded(trainer):  # type: ignore[misc, valid-type]
        def _get_train_sampler(self, *_: object) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

        def training_step(self, model: Any, inputs: Any, *rest: Any) -> torch.Tensor:  # noqa: ANN401
            told.batches.append({name: value.clone() for name, value in inputs.items()})
            loss: torch.Tensor = super().training_step(model, inputs, *rest)
            told.losses.append(loss.item())
            return loss

    arguments = config(
        output_dir=str(directory),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        disable_tqdm=True,
        **settings,
    )
    trl = Recorded(
        model=plain(model),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model.path),
    )
    trl.train()
    told.norms.extend(entry["grad_norm"] for entry in trl.state.log_history if "grad_norm" in entry)
    return told
