"""Every error that Tunewise raises on purpose.

Each says what is wrong, with which value, where, and what to do; `code` is stable and machine-readable, `param` names
the field or flag at fault. The command line prints the message; the API puts all three in OpenAI's error envelope.

    TunewiseError
    ├── ConfigError       a setting, a config file or a request field
    ├── DataError         a data file or a row of one
    ├── ModelError        a base model or an adapter that cannot be found, read or used
    ├── TrainingError     a run that had to stop: loss not finite, out of memory, disk full
    ├── ServingError      a hosted model that cannot answer
    ├── EvaluationError   a grader, an arm or a verdict that cannot be computed
    ├── StoreError        the database cannot be used
    └── RequestError      a request that cannot be answered: not there, not allowed, not now
"""


class TunewiseError(Exception):
    """A known failure. `exit_code` is what the command line and child processes exit with."""

    exit_code = 1

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class ConfigError(TunewiseError):
    """A setting, a config file or a request field is wrong."""

    exit_code = 2


class DataError(TunewiseError):
    """A data file, or a row of one, is wrong."""

    exit_code = 3


class ModelError(TunewiseError):
    """A base model or an adapter cannot be found, read or used."""

    exit_code = 4


class TrainingError(TunewiseError):
    """A training run had to stop."""

    exit_code = 5


class ServingError(TunewiseError):
    """A hosted model cannot answer."""

    exit_code = 6


class EvaluationError(TunewiseError):
    """A score or a verdict cannot be computed."""

    exit_code = 7


class StoreError(TunewiseError):
    """The database cannot be used."""

    exit_code = 8


class RequestError(TunewiseError):
    """A request that cannot be answered as asked: what it names is not there, not allowed, or not in that state."""

    exit_code = 9
