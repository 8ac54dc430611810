"""TRL's SFTTrainer as an oracle: the same rows give the same ids, mask, losses and gradient norms, for fifty steps."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, get_peft_model
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_callback import PrinterCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from train.making import row, write_rows
from tunewise.contracts.fine_tuning import LossOn
from tunewise.contracts.run import BaseModelRef, LoraSpec, SupervisedObjective
from tunewise.data.template import Rendered, Template
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.lora import add_adapter
from tunewise.train.criterion import Unit
from tunewise.train.methods import criterion
from tunewise.train.rows import load_rows
from tunewise.train.step import accumulate_gradients

STEPS, SMOOTHED_STEPS, BATCH, RATE, SEED = 50, 15, 2, 1e-3, 5
SPEC = LoraSpec(rank=4, alpha=8.0, dropout=0.0, targets="all-linear")
ROWS = [row(n, answers=1 + n % 2) for n in range(8)]
# SmolLM2's template with the marks by which transformers tells an assistant's tokens from the others.
MARKED_TEMPLATE = """{% for message in messages %}{% if loop.first and message.role != 'system' %}\
{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' }}\
{% endif %}\
{{ '<|im_start|>' + message.role + '\\n' }}{% if message.role == 'assistant' %}{% generation %}\
{{ message.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message.content + '<|im_end|>' }}{% endif %}\
{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    # torch's data loader: there is no accelerator to pin memory for.
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


class Trajectory(NamedTuple):
    """The loss and the norm of the gradient of every step."""

    losses: list[float]
    norms: list[float]


@pytest.fixture(scope="module")
def units(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> dict[LossOn, list[Unit]]:
    file = write_rows(tmp_path_factory.mktemp("rows") / "train.jsonl", ROWS)
    template = Template.load(tiny_model.path)
    choices: tuple[LossOn, ...] = ("assistant", "last_assistant", "all")
    return {
        choice: load_rows(file, template, SupervisedObjective(loss_on=choice), max_tokens=2048, overlong="error").units
        for choice in choices
    }


@pytest.fixture
def marked_model(tiny_model: BaseModelRef, tmp_path: Path) -> Path:
    """The model with a template that marks the assistant's tokens."""
    directory = tmp_path / "marked"
    shutil.copytree(tiny_model.path, directory)
    (directory / "chat_template.jinja").write_text(MARKED_TEMPLATE)
    return directory


def trainer(
    model: Path,
    rows: list[dict[str, Any]],
    directory: Path,
    steps: int = STEPS,
    **settings: Any,  # noqa: ANN401
) -> SFTTrainer:
    """TRL on the same rows in the same order, with the adapter that a run of ours begins with."""
    disable_progress_bars()
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(SEED)
    adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    made = SFTTrainer(
        model=adapted,
        processing_class=AutoTokenizer.from_pretrained(model),
        train_dataset=Dataset.from_list(rows),
        args=SFTConfig(
            output_dir=str(directory / "trl"),
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            logging_steps=1,
            logging_first_step=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            max_length=None,
            train_sampling_strategy="sequential",
            **settings,
        ),
    )
    made.remove_callback(PrinterCallback)
    return made


def theirs(oracle: SFTTrainer) -> Trajectory:
    oracle.train()
    logged = [entry for entry in oracle.state.log_history if "loss" in entry]
    return Trajectory([entry["loss"] for entry in logged], [entry["grad_norm"] for entry in logged])


def ours(model: BaseModelRef, units: list[Unit], objective: SupervisedObjective, steps: int = STEPS) -> Trajectory:
    base = load_frozen(model, "float32")
    torch.manual_seed(SEED)
    weights = [weight for weight in add_adapter(base, SPEC).parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    loss = criterion(objective, share_prefixes=True)
    told = Trajectory([], [])
    for step in range(steps):
        chosen = [(step * BATCH + place) % len(units) for place in range(BATCH)]
        told.losses.append(accumulate_gradients(base, loss, units, chosen).loss)
        told.norms.append(clip_grad_norm_(weights, 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
    return told


def of_trl(oracle: SFTTrainer) -> list[Rendered]:
    """TRL's rows; the first token's label counts for nothing there either."""
    assert isinstance(oracle.train_dataset, Dataset)
    return [
        Rendered(each["input_ids"], [0, *(int(label != -100) for label in each["labels"][1:])])
        for each in oracle.train_dataset
    ]


def rows_of(units: list[Unit]) -> list[Rendered]:
    return [only for unit in units for only in unit.rows]


def test_fifty_steps_on_the_assistants_tokens_equal_trls(
    units: dict[LossOn, list[Unit]], tiny_model: BaseModelRef, marked_model: Path, tmp_path: Path
) -> None:
    oracle = trainer(marked_model, [json.loads(line) for line in ROWS], tmp_path, assistant_only_loss=True)
    assert rows_of(units["assistant"]) == of_trl(oracle)
    check_trajectory(ours(tiny_model, units["assistant"], SupervisedObjective()), theirs(oracle))


@pytest.mark.filterwarnings("ignore:`label_smoothing_factor` is deprecated:FutureWarning")
def test_smoothed_steps_on_every_token_equal_trls(
    units: dict[LossOn, list[Unit]], tiny_model: BaseModelRef, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in ROWS]
    oracle = trainer(tiny_model.path, rows, tmp_path, SMOOTHED_STEPS, label_smoothing_factor=0.1)
    assert rows_of(units["all"]) == of_trl(oracle)
    objective = SupervisedObjective(loss_on="all", label_smoothing=0.1)
    check_trajectory(ours(tiny_model, units["all"], objective, SMOOTHED_STEPS), theirs(oracle))


def test_the_last_answer_is_trls_completion_but_for_what_the_template_puts_after_it(
    units: dict[LossOn, list[Unit]], tiny_model: BaseModelRef, tmp_path: Path
) -> None:
    rows = [json.loads(line)["messages"] for line in ROWS]
    oracle = trainer(
        tiny_model.path, [{"prompt": messages[:-1], "completion": messages[-1:]} for messages in rows], tmp_path
    )
    for own, other in zip(rows_of(units["last_assistant"]), of_trl(oracle), strict=True):
        assert own.ids == other.ids
        assert own.mask[:-1] == other.mask[:-1]
        # A newline, which is no part of an answer: generation has stopped before it.
        assert (own.mask[-1], other.mask[-1]) == (0, 1)


def check_trajectory(ours: Trajectory, theirs: Trajectory) -> None:
    assert len(theirs.losses) == len(ours.losses)
    assert max(apart(ours.losses, theirs.losses)) < 1e-4
    assert max(apart(ours.norms, theirs.norms)) < 1e-4
    assert ours.losses[-1] < 0.995 * ours.losses[0]


def apart(ours: list[float], theirs: list[float]) -> list[float]:
    """Relative differences, step by step."""
    return [abs(own - other) / other for own, other in zip(ours, theirs, strict=True)]
