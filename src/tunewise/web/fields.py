"""A pydantic model as a form: one field for each of its own, with its limits and words.

The limits and choices are read from the model's schema, so that the form offers all that the API takes, and nothing
else. Knows no particular model.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from nicegui import ui
from pydantic import BaseModel, ValidationError

from tunewise.errors import RequestError
from tunewise.web.parts import hint, markup
from tunewise.web.words import said, t

Changed: TypeAlias = Callable[[], Awaitable[None]]
Schema: TypeAlias = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)
AUTO = "auto"
TITLES = {
    "hyperparameters": said("Hyperparameters"),
    "n_epochs": said("Epochs"),
    "batch_size": said("Batch size"),
    "learning_rate_multiplier": said("Learning rate, times the usual"),
    "beta": said("Hold to where it began"),
    "loss": said("Loss"),
    "loss_on": said("Messages to learn from"),
    "label_smoothing": said("Label smoothing"),
    "neftune_alpha": said("Noise on embeddings"),
    "desirable_weight": said("Weight of wanted answers"),
    "undesirable_weight": said("Weight of unwanted answers"),
    "weights": said("What is trained"),
    "lora": said("Shape of the adapter"),
    "rank": said("Rank"),
    "dropout": said("Dropout"),
    "targets": said("Layers with an adapter"),
    "top_layers": said("Last layers only"),
    "parent_use": said("When a tuned model is tuned further"),
    "schedule": said("Learning rate over time"),
    "warmup_ratio": said("Share of steps to warm up"),
    "weight_decay": said("Weight decay"),
    "max_grad_norm": said("Largest gradient"),
    "dtype": said("Number format"),
    "activation_checkpointing": said("Save memory by computing twice"),
    "processes": said("Processes"),
    "sharding": said("How processes share"),
    "checkpoint_minutes": said("Minutes between checkpoints"),
    "early_stopping_patience": said("Epochs to wait before stopping early"),
    "trackers": said("Programs that are told"),
}


class Field(Protocol):
    """A part of the form that holds one value."""

    def read(self) -> object:
        """The value, as the model takes it."""

    def write(self, value: Any) -> None:  # noqa: ANN401  # whatever the model's field holds
        """Show a value."""


class ModelForm(Generic[Model]):
    """The form of one model. `without`: fields that it leaves at their defaults."""

    def __init__(self, model: type[Model], changed: Changed, *, without: tuple[str, ...] = ()) -> None:
        self._model = model
        self._fields: dict[str, Field] = {}
        properties = model.model_json_schema()["properties"]
        for name, field in model.model_fields.items():
            if name in without:
                continue
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                markup("<h3>{} <code>{}</code></h3>", t(TITLES[name]) if name in TITLES else "", name)
                self._fields[name] = ModelForm(kind, changed)
            else:
                self._fields[name] = _drawn(name, properties[name], changed)
            if field.default is not None and not field.is_required():
                self._fields[name].write(field.default)

    def read(self) -> Model:
        """What stands in the form.

        Raises:
            RequestError: invalid_value, where a value is beyond its limits.
        """
        try:
            return self._model.model_validate({name: field.read() for name, field in self._fields.items()})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"] if part in self._fields)
            raise RequestError("invalid_value", f"{place}: {first['msg']}", param=place) from error

    def write(self, value: Model) -> None:
        """Show the values of the fields that there are."""
        for name, field in self._fields.items():
            if name in type(value).model_fields:
                field.write(getattr(value, name))


def _drawn(name: str, described: Schema, changed: Changed) -> Field:
    """The field that fits what the schema allows; below it stand the API's name for it and what that says of it."""
    variants: list[Schema] = described.get("anyOf", [described])
    kinds = {variant.get("type"): variant for variant in variants}
    has_auto = any(variant.get("const") == AUTO for variant in variants)
    label = t(TITLES[name]) if name in TITLES else name
    about = f"{name}: {described['description']}" if "description" in described else name
    field: _Number | _Flag | _Choice | _Ticks | _Words
    if number := kinds.get("integer") or kinds.get("number"):
        field = _Number(label, number, changed, has_auto=has_auto)
    elif (array := kinds.get("array")) and "enum" in array["items"]:
        field = _Ticks(label, array, changed)
    elif array:
        field = _Words(label, next((v["const"] for v in variants if "const" in v), ""), changed)
    elif described.get("type") == "boolean":
        field = _Flag(label, about, changed)
    else:
        field = _Choice(label, variants, changed)
    if not isinstance(field, _Flag):
        hint(field.element, about)
    return field


class _Number:
    """A number, with a tick for "auto" where the model takes that; empty: none."""

    def __init__(self, label: str, limits: Schema, changed: Changed, *, has_auto: bool) -> None:
        self._is_whole = limits["type"] == "integer"
        self._auto: ui.checkbox | None = None
        with ui.element("div").classes("tw-line"):
            self.element = ui.number(
                label,
                min=limits.get("minimum", limits.get("exclusiveMinimum")),
                max=limits.get("maximum", limits.get("exclusiveMaximum")),
                step=1 if self._is_whole else 0.1,
                format="%.0f" if self._is_whole else None,
            )
            if has_auto:
                self._auto = ui.checkbox(t("chosen for the data"), value=True)
                self.element.bind_enabled_from(self._auto, "value", backward=lambda is_auto: not is_auto)
                self._auto.on_value_change(changed)
        self.element.on("blur", changed)

    def read(self) -> int | float | str | None:
        value = self.element.value
        if self._auto is not None and (self._auto.value or value is None):
            return AUTO
        return int(value) if self._is_whole and value is not None else value

    def write(self, value: Any) -> None:  # noqa: ANN401
        if self._auto is not None:
            self._auto.set_value(value == AUTO)
        self.element.set_value(None if value == AUTO else value)


class _Flag:
    """Yes or no."""

    def __init__(self, label: str, about: str, changed: Changed) -> None:
        with ui.element("div"):
            self.element = ui.checkbox(label)
            markup('<p class="tw-quiet tw-hint" lang="en">{}</p>', about)
        self.element.on_value_change(changed)

    def read(self) -> bool:
        return bool(self.element.value)

    def write(self, value: Any) -> None:  # noqa: ANN401
        self.element.set_value(value)


class _Choice:
    """One of a few words, as the API has them; among them may be "auto", yes and no."""

    def __init__(self, label: str, variants: list[Schema], changed: Changed) -> None:
        choices: dict[object, str] = {}
        for variant in variants:
            words = variant.get("enum", [variant["const"]] if "const" in variant else [])
            choices |= {word: t("chosen for the data") if word == AUTO else word for word in words}
            if variant.get("type") == "boolean":
                choices |= {True: t("yes"), False: t("no")}
        self.element = ui.select(choices, label=label, value=next(iter(choices)))
        self.element.on_value_change(changed)

    def read(self) -> object:
        return self.element.value

    def write(self, value: Any) -> None:  # noqa: ANN401
        self.element.set_value(value)


class _Ticks:
    """Several of the words that the schema lists."""

    def __init__(self, label: str, array: Schema, changed: Changed) -> None:
        self.element = ui.select(array["items"]["enum"], label=label, value=[], multiple=True)
        self.element.on_value_change(changed)

    def read(self) -> list[str]:
        return list(self.element.value)

    def write(self, value: Any) -> None:  # noqa: ANN401
        self.element.set_value(list(value))


class _Words:
    """Words of a person's own, with commas between; `whole` stands for all there are."""

    def __init__(self, label: str, whole: str, changed: Changed) -> None:
        self._whole = whole
        self.element = ui.input(label, value=whole)
        self.element.on("blur", changed)

    def read(self) -> list[str] | str:
        written = [word.strip() for word in (self.element.value or "").split(",") if word.strip()]
        return self._whole if written in ([], [self._whole]) else written

    def write(self, value: Any) -> None:  # noqa: ANN401
        self.element.set_value(value if isinstance(value, str) else ", ".join(value))
