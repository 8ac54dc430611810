"""`python -m tunewise.export SPEC`: write one export (`contracts.export`), check it, publish it.

The last line on standard output is JSON: an `ExportReport`, or a `RunFailure` where the exit code is not 0. The output
directory is whole and checked, or absent. Knows no names, stores or settings: `jobs.exporting` finds what is exported.
"""

import errno
import logging
import sys
from pathlib import Path

from pydantic import ValidationError
from transformers.utils import logging as transformers_logging

from tunewise.contracts.export import ExportSpec
from tunewise.contracts.run import RunFailure
from tunewise.errors import ConfigError, ModelError, TunewiseError
from tunewise.export.publish import export


def main(arguments: list[str]) -> int:
    """The command; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        report = export(_spec(Path(arguments[0])))
    except TunewiseError as error:
        return _fail(error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return _fail(ModelError("disk_full", f"the disk is full: {error}; make room, or name another --output"))
    sys.stdout.write(report.model_dump_json() + "\n")
    return 0


def _spec(path: Path) -> ExportSpec:
    try:
        return ExportSpec.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError("invalid_export", f"{path}: {error}") from error


def _fail(error: TunewiseError) -> int:
    failure = RunFailure(code=error.code, message=error.message, param=error.param)
    sys.stdout.write(failure.model_dump_json() + "\n")
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
