"""AutoTrain's configuration files: their keys to Tunewise's, by one table that says of every key what becomes of it.

Knows AutoTrain's names and defaults (its LLMTrainingParams). Pure but for the environment variables that a file names;
reads no rows. A token in the file is never looked at: the hub's client has its own (`HF_TOKEN`).
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from tunewise.contracts.autotrain import Fate, KeyFate, Translation
from tunewise.contracts.fine_tuning import PREFERENCES, Method, MethodType, Tracker, TrainingRequest, Weights
from tunewise.errors import ConfigError
from tunewise.planning import DEFAULT_BETA, base_learning_rate
from tunewise.settings import missing_packages, secret

TASKS = ("llm", "llm-sft", "llm-generic", "llm-dpo", "llm-orpo")
# What stands after "llm-", else `params.trainer`, says how AutoTrain trains.
TRAINERS: dict[str, MethodType] = {
    "default": "supervised",
    "generic": "supervised",
    "sft": "supervised",
    "dpo": "dpo",
    "orpo": "orpo",
}
REWARD = (
    "trains a model that scores answers and cannot be asked anything, so that there is nothing to host or judge; with "
    "the same rows llm-dpo and llm-orpo train a model that answers"
)
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
    "params.peft": False,
    "params.model_max_length": 2048,
    "data.train_split": "train",
    "data.column_mapping.text_column": "text",
}
ADAPTER_DEFAULTS: dict[str, Any] = {"params.lora_r": 16, "params.lora_alpha": 32, "params.lora_dropout": 0.05}
PAIR_DEFAULTS: dict[str, Any] = {"params.dpo_beta": DEFAULT_BETA}


class Kind(NamedTuple):
    """How a file trains: what the meaning of other keys depends on."""

    method: MethodType
    weights: Weights

    @property
    def hyperparameters(self) -> str:
        """Where they stand in `tunewise.yaml`."""
        return f"training.method.{self.method}.hyperparameters"

    @property
    def learning_rate(self) -> float:
        """The rate that a multiplier of 1 stands for."""
        return base_learning_rate(TrainingRequest(method=Method(type=self.method), weights=self.weights))


class Rule(NamedTuple):
    """What becomes of a key: a field of `tunewise.yaml` through `make`, or what `why` says.

    `{hyper}` in a field stands for where the method's hyperparameters are.
    """

    field: str | None
    why: str = ""
    make: Callable[[Any], Any] | None = None
    fate: Fate = "no counterpart"


def _schedule(value: str) -> str:
    return {"cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}.get(value, "linear")


def _dtype(value: str | None) -> str:
    return "float32" if value in (None, "no", "none") else "auto"


def _targets(value: str | None) -> str | list[str]:
    return "all-linear" if value in (None, "all-linear") else [part.strip() for part in str(value).split(",")]


HERE = "everything runs on this machine"
KEPT = "curves, events and logs are always kept with the run"
NOT_TRACKED = f"{KEPT}; a tracker whose package is installed here is told of each step"
TRACKERS = get_args(Tracker)
PACKED = "rows are packed end to end; there is no padding"
PAIRS = "for preference data only"
NO_ADAPTER = "for adapters only, and params.peft is off"
NOT_CUT = "prompt and answer are not cut apart; data.max_tokens is the limit of both together"
UNQUANTISED = "the base model is held unquantised, which loses nothing; to save memory: training.weights: qlora"
NEVER_READ = "never read; the hub's client takes HF_TOKEN from the environment"
UNKNOWN = "not a key that is known here"
NOTHING_SENT = "nothing leaves this machine"
RULES: dict[str, Rule] = {
    "task": Rule(None),
    "base_model": Rule("model"),
    "project_name": Rule("suffix", make=lambda name: suffix_of(str(name))),
    "log": Rule(None, NOT_TRACKED),
    "backend": Rule(None, HERE),
    "data.path": Rule(None, "data.train, converted", fate="used"),
    "data.train_split": Rule(None, "data.train, converted", fate="used"),
    "data.valid_split": Rule(None, "data.valid, converted, where there is one", fate="used"),
    "data.column_mapping.text_column": Rule(None, "the column that holds the messages", fate="used"),
    "data.chat_template": Rule(None, "the base model's own chat template is used, in training as in hosting"),
    "data.column_mapping.prompt_text_column": Rule(None, "the column of what is asked", fate="used"),
    "data.column_mapping.rejected_text_column": Rule(None, "the column of worse answers", fate="used"),
    "params.epochs": Rule("{hyper}.n_epochs"),
    "params.lr": Rule(None),
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
    "params.trainer": Rule(None, "the task's name says it", fate="used"),
    "params.peft": Rule("training.weights", make=lambda is_on: "lora" if is_on else "full"),
    "params.quantization": Rule(None, UNQUANTISED),
    "params.merge_adapter": Rule(None, "the adapter is hosted on its base model without merging"),
    "params.optimizer": Rule(None, "AdamW is always used"),
    "params.padding": Rule(None, PACKED),
    "params.add_eos_token": Rule(None, "the chat template ends each answer"),
    "params.auto_find_batch_size": Rule(None, "memory is planned for before training"),
    "params.disable_gradient_checkpointing": Rule(
        "training.activation_checkpointing", make=lambda is_off: False if is_off else "auto"
    ),
    "params.use_flash_attention_2": Rule(None, "attention is Tunewise's own"),
    "params.attn_implementation": Rule(None, "attention is Tunewise's own"),
    "params.unsloth": Rule(None, "kernels are Tunewise's own"),
    "params.distributed_backend": Rule(None, HERE),
    "params.logging_steps": Rule(None, "every step is kept"),
    "params.log": Rule(None, NOT_TRACKED),
    "params.eval_strategy": Rule(None, "validation loss is measured after every epoch"),
    "params.evaluation_strategy": Rule(None, "validation loss is measured after every epoch"),
    "params.save_strategy": Rule(None, "checkpoints are written by time and pruned"),
    "params.save_total_limit": Rule(None, "checkpoints are written by time and pruned"),
    "params.model_ref": Rule(None, "the reference is the model that training begins with"),
    "params.dpo_beta": Rule("{hyper}.beta"),
    "params.max_prompt_length": Rule(None, NOT_CUT),
    "params.max_completion_length": Rule(None, NOT_CUT),
    "hub.username": Rule(None, NOTHING_SENT),
    "hub.push_to_hub": Rule(None, NOTHING_SENT),
    "hub.repo_id": Rule(None, NOTHING_SENT),
}


OF_PAIRS = frozenset(
    {
        "data.column_mapping.prompt_text_column",
        "data.column_mapping.rejected_text_column",
        "params.model_ref",
        "params.dpo_beta",
        "params.max_prompt_length",
        "params.max_completion_length",
    }
)
OF_ADAPTERS = frozenset({*ADAPTER_DEFAULTS, "params.target_modules", "params.quantization", "params.merge_adapter"})


def is_autotrain(content: Mapping[str, Any]) -> bool:
    """Whether a file has AutoTrain's shape; no field of these names is one of `tunewise.yaml`'s."""
    return "task" in content and ("base_model" in content or "project_name" in content)


def translate(content: Mapping[str, Any], path: Path) -> Translation:
    """The equivalent of an AutoTrain file, and what became of each of its keys.

    Raises:
        ConfigError: a task that is not trained here, a key that is missing, or a variable that is not set.
    """
    given = dict(_flattened(content, path))
    kind = Kind(_method(given, path), "lora" if given.get("params.peft") else "full")
    for key in ("base_model", "project_name", "data.path"):
        if not given.get(key):
            raise ConfigError("invalid_config", f"{path}: {key}: missing; add it", param=key)
    defaults = DEFAULTS | (ADAPTER_DEFAULTS if kind.weights == "lora" else {})
    defaults |= PAIR_DEFAULTS if kind.method in PREFERENCES else {}
    values = {**given, **{key: value for key, value in defaults.items() if given.get(key) is None}}
    config: dict[str, Any] = {}
    keys = []
    for key, value in values.items():
        try:
            keys.append(_apply(key, config, is_given=key in given, values=values, kind=kind))
        except (TypeError, ValueError) as wrong:
            raise ConfigError(
                "invalid_config", f"{path}: {key}: a number is expected, got {value!r}", param=key
            ) from wrong
    return Translation(
        project=suffix_of(str(values["project_name"])),
        method=kind.method,
        keys=tuple(keys),
        config=config,
        rows=str(values["data.path"]),
        train_split=values["data.train_split"],
        valid_split=values.get("data.valid_split"),
        text_column=given.get("data.column_mapping.text_column"),
        prompt_column=given.get("data.column_mapping.prompt_text_column"),
        rejected_column=given.get("data.column_mapping.rejected_text_column"),
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


def _method(given: Mapping[str, Any], path: Path) -> MethodType:
    """What the task's name says, else `params.trainer`, as AutoTrain reads them.

    Raises:
        ConfigError: unsupported_task.
    """
    task = str(given.get("task"))
    family, _, named = task.partition("-")
    trainer = str(named or given.get("params.trainer") or "default")
    method = TRAINERS.get(trainer) if family == "llm" else None
    if method is not None:
        return method
    shown = f"task {task!r}" if named or family != "llm" else f"task {task!r} with params.trainer {trainer!r}"
    why = "is not about language models" if family != "llm" else REWARD if trainer == "reward" else "is not known"
    raise ConfigError(
        "unsupported_task", f"{path}: {shown} {why}; these can be trained: {', '.join(TASKS)}", param="task"
    )


def _apply(key: str, config: dict[str, Any], *, is_given: bool, values: Mapping[str, Any], kind: Kind) -> KeyFate:
    """Put a key's meaning into the config, and say what was done."""
    field, made, fate = _meaning(key, values, kind)
    if field is not None:
        _put(config, field, made)
    return KeyFate(
        key=key,
        value="not set" if values[key] is None else str(values[key]),
        fate=fate if is_given else "default",
        became=made if field is None else f"{field}: {made}",
    )


def _meaning(key: str, values: Mapping[str, Any], kind: Kind) -> tuple[str | None, Any, Fate]:
    """The field and its value, or None and why there is none; and the key's fate."""
    value, rule = values[key], RULES.get(key) or Rule(None, NEVER_READ if _is_secret(key) else UNKNOWN)
    idle, joint = _idle(key, kind), _joint(key, values, kind)
    if idle is not None:
        return None, idle, "no counterpart"
    if joint is not None:
        field, made = joint
    elif rule.field is None:
        return None, rule.why, rule.fate
    elif value is None and rule.make is None:
        return None, "not set there either", "used"
    else:
        field, made = rule.field.format(hyper=kind.hyperparameters), rule.make(value) if rule.make else value
    return field, made, "used" if made == value else "translated"


def _is_secret(key: str) -> bool:
    return SECRET.search(key.rpartition(".")[2]) is not None


def _idle(key: str, kind: Kind) -> str | None:
    """Why a key means nothing where the file trains as it does."""
    if key in OF_PAIRS and kind.method not in PREFERENCES:
        return PAIRS
    return NO_ADAPTER if key in OF_ADAPTERS and kind.weights == "full" else None


def _joint(key: str, values: Mapping[str, Any], kind: Kind) -> tuple[str, Any] | None:
    """Field and value of keys that mean something only together with others, or with how the file trains."""
    match key:
        case "task" | "params.trainer" if key == "task" or values["task"] == "llm":
            return "training.method.type", kind.method
        case "params.lr":
            # YAML 1.1 takes `1e-5`, without a point, for a text.
            multiplier = float(f"{float(values[key]) / kind.learning_rate:.6g}")
            return f"{kind.hyperparameters}.learning_rate_multiplier", multiplier
        case "params.batch_size" | "params.gradient_accumulation":
            rows = int(values["params.batch_size"]) * int(values["params.gradient_accumulation"])
            return f"{kind.hyperparameters}.batch_size", rows
        case "params.block_size" | "params.model_max_length":
            sizes = values.get("params.block_size")
            asked = sizes[0] if isinstance(sizes, list) and sizes else sizes
            limit = asked if isinstance(asked, int) and asked > 0 else values["params.model_max_length"]
            return "data.max_tokens", int(limit)
        case "log" | "params.log" if values[key] in TRACKERS and not missing_packages(values[key]):
            return "training.trackers", [values[key]]
        case _:
            return None


def _put(config: dict[str, Any], field: str, value: Any) -> None:  # noqa: ANN401
    *sections, name = field.split(".")
    place = config
    for section in sections:
        place = place.setdefault(section, {})
    place[name] = value
