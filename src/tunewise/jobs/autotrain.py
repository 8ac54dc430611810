"""AutoTrain's configuration files: their keys to Tunewise's, by one table that says of every key what becomes of it.

Knows AutoTrain's names and defaults (its LLMTrainingParams). Pure but for the environment variables that a file names;
reads no rows. A token in the file is never looked at: the hub's client has its own (`HF_TOKEN`).
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tunewise.contracts.autotrain import Fate, KeyFate, Translation
from tunewise.errors import ConfigError
from tunewise.planning import BASE_LEARNING_RATE
from tunewise.settings import secret

TASKS = ("llm", "llm-sft", "llm-generic")
LATER_TASKS = ("llm-dpo", "llm-orpo", "llm-reward")
TRAINERS = ("default", "generic", "sft", None)
SECTIONS = ("data", "params", "hub")
VARIABLE = re.compile(r"\$\{(\w+)\}")
SECRET = re.compile(r"token|password|secret|api_?key", re.IGNORECASE)
# AutoTrain's defaults where they differ from ours: a file that leaves a key out means these.
DEFAULTS: dict[str, Any] = {
    "params.epochs": 1,
    "params.batch_size": 2,
    "params.gradient_accumulation": 4,
    "params.lr": 3e-5,
    "params.warmup_ratio": 0.1,
    "params.lora_r": 16,
    "params.lora_alpha": 32,
    "params.lora_dropout": 0.05,
    "params.model_max_length": 2048,
    "data.train_split": "train",
    "data.column_mapping.text_column": "text",
}


class Rule(NamedTuple):
    """What becomes of a key: a field of `tunewise.yaml` through `make`, or what `why` says."""

    field: str | None
    why: str = ""
    make: Callable[[Any], Any] | None = None
    fate: Fate = "no counterpart"


def _schedule(value: str) -> str:
    return {"cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}.get(value, "linear")


def _dtype(value: str | None) -> str:
    return "float32" if value in (None, "no", "none") else "auto"


def _multiplier(rate: float | str) -> float:
    # YAML 1.1 takes `1e-5`, without a point, for a text.
    return float(f"{float(rate) / BASE_LEARNING_RATE:.6g}")


def _targets(value: str | None) -> str | list[str]:
    return "all-linear" if value in (None, "all-linear") else [part.strip() for part in str(value).split(",")]


HYPER = "training.method.supervised.hyperparameters"
HERE = "everything runs on this machine"
KEPT = "curves, events and logs are always kept with the run"
PACKED = "rows are packed end to end; there is no padding"
PAIRS = "for preference data only"
NOTHING_SENT = "nothing leaves this machine"
RULES: dict[str, Rule] = {
    "task": Rule("training.method.type", make=lambda _: "supervised"),
    "base_model": Rule("model"),
    "project_name": Rule("suffix", make=lambda name: suffix_of(str(name))),
    "log": Rule(None, KEPT),
    "backend": Rule(None, HERE),
    "data.path": Rule(None, "data.train, converted", fate="used"),
    "data.train_split": Rule(None, "data.train, converted", fate="used"),
    "data.valid_split": Rule(None, "data.valid, converted, where there is one", fate="used"),
    "data.column_mapping.text_column": Rule(None, "the column that holds the messages", fate="used"),
    "data.chat_template": Rule(None, "the base model's own chat template is used, in training as in hosting"),
    "data.column_mapping.prompt_text_column": Rule(None, PAIRS),
    "data.column_mapping.rejected_text_column": Rule(None, PAIRS),
    "params.epochs": Rule(f"{HYPER}.n_epochs"),
    "params.lr": Rule(f"{HYPER}.learning_rate_multiplier", make=_multiplier),
    "params.scheduler": Rule("training.schedule", make=_schedule),
    "params.warmup_ratio": Rule("training.warmup_ratio"),
    "params.weight_decay": Rule("training.weight_decay"),
    "params.max_grad_norm": Rule("training.max_grad_norm"),
    "params.seed": Rule("training.seed"),
    "params.lora_r": Rule("training.lora.rank"),
    "params.lora_alpha": Rule("training.lora.alpha"),
    "params.lora_dropout": Rule("training.lora.dropout"),
    "params.target_modules": Rule("training.lora.targets", make=_targets),
    "params.mixed_precision": Rule("training.dtype", make=_dtype),
    "params.block_size": Rule(None),
    "params.model_max_length": Rule(None),
    "params.batch_size": Rule(None),
    "params.gradient_accumulation": Rule(None),
    "params.trainer": Rule("training.method.type", make=lambda _: "supervised"),
    "params.peft": Rule(None, "an adapter (LoRA) is always trained, never all weights"),
    "params.quantization": Rule(None, "the base model is not quantised"),
    "params.merge_adapter": Rule(None, "the adapter is hosted on its base model without merging"),
    "params.optimizer": Rule(None, "AdamW is always used"),
    "params.padding": Rule(None, PACKED),
    "params.add_eos_token": Rule(None, "the chat template ends each answer"),
    "params.auto_find_batch_size": Rule(None, "memory is planned for before training"),
    "params.disable_gradient_checkpointing": Rule(None, "activations are kept where memory allows"),
    "params.use_flash_attention_2": Rule(None, "attention is Tunewise's own"),
    "params.attn_implementation": Rule(None, "attention is Tunewise's own"),
    "params.unsloth": Rule(None, "kernels are Tunewise's own"),
    "params.distributed_backend": Rule(None, HERE),
    "params.logging_steps": Rule(None, "every step is kept"),
    "params.log": Rule(None, KEPT),
    "params.eval_strategy": Rule(None, "validation loss is measured after every epoch"),
    "params.evaluation_strategy": Rule(None, "validation loss is measured after every epoch"),
    "params.save_strategy": Rule(None, "checkpoints are written by time and pruned"),
    "params.save_total_limit": Rule(None, "checkpoints are written by time and pruned"),
    "params.model_ref": Rule(None, PAIRS),
    "params.dpo_beta": Rule(None, PAIRS),
    "params.max_prompt_length": Rule(None, PAIRS),
    "params.max_completion_length": Rule(None, PAIRS),
    "hub.username": Rule(None, NOTHING_SENT),
    "hub.push_to_hub": Rule(None, NOTHING_SENT),
    "hub.repo_id": Rule(None, NOTHING_SENT),
}


def is_autotrain(content: Mapping[str, Any]) -> bool:
    """Whether a file has AutoTrain's shape; no field of these names is one of `tunewise.yaml`'s."""
    return "task" in content and ("base_model" in content or "project_name" in content)


def translate(content: Mapping[str, Any], path: Path) -> Translation:
    """The equivalent of an AutoTrain file, and what became of each of its keys.

    Raises:
        ConfigError: a task that is not there yet, a key that is missing, or a variable that is not set.
    """
    given = dict(_flattened(content, path))
    _check_task(given, path)
    for key in ("base_model", "project_name", "data.path"):
        if not given.get(key):
            raise ConfigError("invalid_config", f"{path}: {key}: missing; add it", param=key)
    values = {**given, **{key: value for key, value in DEFAULTS.items() if given.get(key) is None}}
    config: dict[str, Any] = {}
    keys = []
    for key, value in values.items():
        try:
            keys.append(_apply(key, value, config, is_given=key in given, values=values))
        except (TypeError, ValueError) as wrong:
            raise ConfigError(
                "invalid_config", f"{path}: {key}: a number is expected, got {value!r}", param=key
            ) from wrong
    return Translation(
        project=suffix_of(str(values["project_name"])),
        keys=tuple(keys),
        config=config,
        rows=str(values["data.path"]),
        train_split=values["data.train_split"],
        valid_split=values.get("data.valid_split"),
        text_column=given.get("data.column_mapping.text_column"),
    )


def suffix_of(project: str) -> str:
    """A project's name as a suffix of the model's name."""
    return (
        re.sub(r"[^A-Za-z0-9_-]+", "-", project.replace("\\", "/").rstrip("/").rpartition("/")[2]).strip("-")[:64]
        or "tuned"
    )


def _flattened(content: Mapping[str, Any], path: Path, prefix: str = "") -> list[tuple[str, Any]]:
    """Every key with its value, sections opened, `${NAME}` filled in; of a secret, only that it is there."""
    pairs: list[tuple[str, Any]] = []
    for name, value in content.items():
        key = f"{prefix}{name}"
        if SECRET.search(str(name)) and not isinstance(value, Mapping) and name != "add_eos_token":
            pairs.append((key, "not shown"))
        elif isinstance(value, Mapping):
            pairs += _flattened(value, path, f"{key}.")
        elif not (name in SECTIONS and value is None):
            pairs.append((key, _filled_in(key, value, path)))
    return pairs


def _filled_in(key: str, value: Any, path: Path) -> Any:  # noqa: ANN401
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        found = secret(match[1])
        # A name of the hub's user is of no use here, so that it need not be set.
        if found is None and not key.startswith("hub."):
            raise ConfigError(
                "variable_not_set", f"{path}: {key}: the environment variable {match[1]} is not set; set it", param=key
            )
        return found or match[0]

    return VARIABLE.sub(lookup, value)


def _check_task(given: Mapping[str, Any], path: Path) -> None:
    task, trainer = given.get("task"), given.get("params.trainer")
    if task in TASKS and trainer in TRAINERS:
        return
    named = f"task {task!r}" if task not in TASKS else f"task {task!r} with params.trainer {trainer!r}"
    why = "cannot be trained yet" if task in TASKS or task in LATER_TASKS else "is not about language models"
    raise ConfigError(
        "unsupported_task", f"{path}: {named} {why}; these can be trained: {', '.join(TASKS)}", param="task"
    )


def _apply(key: str, value: Any, config: dict[str, Any], *, is_given: bool, values: Mapping[str, Any]) -> KeyFate:  # noqa: ANN401
    """Put a key's meaning into the config, and say what was done."""
    rule = RULES.get(key)
    shown = "not set" if value is None else str(value)

    def told(fate: Fate, became: str) -> KeyFate:
        return KeyFate(key=key, value=shown, fate=fate if is_given else "default", became=became)

    if SECRET.search(key.rpartition(".")[2]) and rule is None:
        return told("no counterpart", "never read; the hub's client takes HF_TOKEN from the environment")
    if rule is None:
        return told("no counterpart", "not a key that is known here")
    joint = _joint(key, values)
    if joint is not None:
        field, made, fate = joint
        if field is not None:
            _put(config, field, made)
        return told(fate, made if field is None else f"{field}: {made}")
    if rule.field is None:
        return told(rule.fate, rule.why)
    if value is None and rule.make is None:
        return told("used", "not set there either")
    made = value if rule.make is None else rule.make(value)
    _put(config, rule.field, made)
    return told("used" if made == value else "translated", f"{rule.field}: {made}")


def _joint(key: str, values: Mapping[str, Any]) -> tuple[str | None, Any, Fate] | None:
    """Keys that mean something only together."""
    match key:
        case "params.peft" if values[key]:
            return None, "an adapter (LoRA), as always", "used"
        case "params.batch_size" | "params.gradient_accumulation":
            rows = int(values["params.batch_size"]) * int(values["params.gradient_accumulation"])
            return f"{HYPER}.batch_size", rows, "translated"
        case "params.block_size" | "params.model_max_length":
            sizes = values.get("params.block_size")
            asked = sizes[0] if isinstance(sizes, list) and sizes else sizes
            limit = asked if isinstance(asked, int) and asked > 0 else values["params.model_max_length"]
            return "data.max_tokens", int(limit), "translated"
        case _:
            return None


def _put(config: dict[str, Any], field: str, value: Any) -> None:  # noqa: ANN401
    *sections, name = field.split(".")
    place = config
    for section in sections:
        place = place.setdefault(section, {})
    place[name] = value
