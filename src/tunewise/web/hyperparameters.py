"""Fields of a pydantic model as form fields: a number, or "auto", with the model's own limits.

The limits are read from the model, so that the form never allows what the API refuses.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from nicegui import ui

from tunewise.contracts.fine_tuning import Hyperparameters
from tunewise.web.words import t


class Preset(NamedTuple):
    """A choice of hyperparameters under a name."""

    title: str
    hyperparameters: Hyperparameters


PRESETS = {
    "quick": Preset("Quick: one epoch", Hyperparameters(n_epochs=1)),
    "balanced": Preset("Balanced: chosen for your data", Hyperparameters()),
    "thorough": Preset(
        "Thorough: more epochs, smaller steps", Hyperparameters(n_epochs=5, learning_rate_multiplier=0.5)
    ),
}


class _Field(NamedTuple):
    is_auto: ui.checkbox
    number: ui.number
    is_whole: bool


class Advanced:
    """One line per field of `Hyperparameters`."""

    def __init__(self, model: type[Hyperparameters], changed: Callable[[], Awaitable[None]]) -> None:
        self._model = model
        schema = model.model_json_schema()
        self._fields = {name: self._draw(name, limits, changed) for name, limits in schema["properties"].items()}

    def value(self) -> Hyperparameters:
        """What stands in the form."""
        return self._model.model_validate({name: _read(field) for name, field in self._fields.items()})

    def set(self, chosen: Hyperparameters) -> None:
        """Put a preset into the form."""
        for name, value in chosen.model_dump().items():
            field = self._fields[name]
            field.is_auto.set_value(value == "auto")
            field.number.set_value(None if value == "auto" else value)

    def _draw(self, name: str, described: dict[str, Any], changed: Callable[[], Awaitable[None]]) -> _Field:
        limits = next(choice for choice in described["anyOf"] if choice.get("type") in ("integer", "number"))
        is_whole = limits["type"] == "integer"
        with ui.element("div").classes("tw-line"):
            value = ui.number(
                f"{_title(name)} ({name})",
                min=limits.get("minimum", limits.get("exclusiveMinimum")),
                max=limits.get("maximum"),
                step=1 if is_whole else 0.1,
                format="%.0f" if is_whole else None,
            )
            auto = ui.checkbox(t("chosen for the data"), value=True)
        value.bind_enabled_from(auto, "value", backward=lambda is_auto: not is_auto)
        value.on("blur", changed)
        auto.on_value_change(changed)
        return _Field(auto, value, is_whole)


def _read(field: _Field) -> int | float | str:
    if field.is_auto.value or field.number.value is None:
        return "auto"
    return int(field.number.value) if field.is_whole else float(field.number.value)


def _title(name: str) -> str:
    return {
        "n_epochs": t("Epochs"),
        "batch_size": t("Batch size"),
        "learning_rate_multiplier": t("Learning rate, times the usual"),
    }.get(name, name)
