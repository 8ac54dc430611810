"""Reading `tunewise.yaml`: text to a checked `RunConfig`, or one error that names every wrong field."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tunewise.contracts.config import EvaluationPlan, RunConfig
from tunewise.errors import ConfigError
from tunewise.jobs.conflicts import conflict


def load_config(path: Path) -> RunConfig:
    """The config with its paths made absolute.

    Raises:
        ConfigError: the file is missing, no YAML, or has unknown or wrong fields.
    """
    content = read_yaml(path)
    try:
        config = RunConfig.model_validate(content, context={"root": path.resolve().parent})
    except ValidationError as invalid:
        problems = [_explain(error) for error in invalid.errors()]
        raise ConfigError(
            "invalid_config", f"{path}: {len(problems)} problem(s)\n  " + "\n  ".join(problems), param=str(path)
        ) from invalid
    _check_options(config, path)
    check_meaning(config, str(path))
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields of a config file, whatever they are.

    Raises:
        ConfigError: the file is missing, or no YAML with fields.
    """
    try:
        content: object = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as missing:
        raise ConfigError(
            "config_not_found", f"{path}: no such file; name a tunewise.yaml (examples/ has one)", param=str(path)
        ) from missing
    except (OSError, UnicodeDecodeError) as unreadable:
        raise ConfigError("config_unreadable", f"{path}: cannot be read as UTF-8 text: {unreadable}") from unreadable
    except yaml.YAMLError as broken:
        # Never the line itself: a config file of others may hold a token.
        mark = broken.problem_mark if isinstance(broken, yaml.MarkedYAMLError) else None
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        what = broken.problem if isinstance(broken, yaml.MarkedYAMLError) else "a character that YAML does not allow"
        raise ConfigError("invalid_yaml", f"{path}{where}: not YAML: {what}; correct it", param=str(path)) from None
    if not isinstance(content, dict):
        raise ConfigError(
            "invalid_config", f"{path}: holds {type(content).__name__}, expected fields such as `data:` and `graders:`"
        )
    return content


def _explain(error: ErrorDetails) -> str:
    """One pydantic error as: field, what is wrong, the value, and a field that may have been meant."""
    field = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = get_close_matches(str(error["loc"][-1]), _all_field_names(RunConfig), n=1)
        meant = f"; did you mean {known[0]!r}?" if known else "; remove it"
        return f"{field}: unknown field{meant}"
    if error["type"] == "missing":
        return f"{field}: missing; add it"
    return f"{field}: {error['msg']}, got {error['input']!r}"


def _all_field_names(model: type[BaseModel]) -> list[str]:
    """Every property name in the config's JSON schema, at any depth."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return sorted({name for part in parts for name in part.get("properties", {})})


def check_meaning(plan: EvaluationPlan, place: str) -> None:
    """What single fields cannot say: exactly one primary grader, and no two arms or graders of one name.

    `place`: what the error begins with.

    Raises:
        ConfigError: duplicate_grader, primary_grader or duplicate_arm.
    """
    names = [grader.name for grader in plan.graders]
    if len(set(names)) < len(names):
        raise ConfigError(
            "duplicate_grader", f"{place}: graders: two share a name: {names}; rename one", param="graders"
        )
    primaries = [grader.name for grader in plan.graders if grader.primary]
    if len(primaries) > 1 or (not primaries and len(names) > 1):
        raise ConfigError(
            "primary_grader",
            f"{place}: graders: {len(primaries)} of {len(names)} have `primary: true`; "
            "mark the one grader that the verdict is about",
            param="graders",
        )
    optional = [arm.name for arm in (plan.arms.few_shot, plan.arms.retrieval) if arm is not None]
    arms = [*(arm.name for arm in plan.arms.prompt), *optional, "tuned", "majority", "nearest"]
    doubled = sorted({name for name in arms if arms.count(name) > 1})
    if doubled:
        raise ConfigError(
            "duplicate_arm", f"{place}: arms: the name {doubled[0]!r} is used twice; rename one", param="arms"
        )


def _check_options(config: RunConfig, path: Path) -> None:
    found = conflict(config.training, has_validation=config.data.valid is not None, parent=None)
    if found is not None:
        param = f"training.{found.option}"
        raise ConfigError(found.code, f"{path}: {param}: {found.message}", param=param)
