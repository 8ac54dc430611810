"""`tunewise models` and the frame that every command stands in."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunewise.cli import COMMANDS, app
from tunewise.contracts.run import BaseModelRef
from tunewise.settings import Settings

RUNNER = CliRunner()


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tunewise.cli.models.get_settings", lambda: Settings(home=tmp_path))
    return tmp_path


def test_list_shows_the_default_model(smollm2: BaseModelRef) -> None:
    listings = json.loads(RUNNER.invoke(app, ["models", "list", "--json"]).stdout)
    assert listings[0]["name"] == "smollm2-135m-instruct"
    assert listings[0]["state"] == "ready"
    assert listings[0]["parameters"] == smollm2.parameters
    assert "smollm2-135m-instruct" in RUNNER.invoke(app, ["models", "list"]).stdout


@pytest.mark.usefixtures("empty_home")
def test_a_model_that_was_never_pulled_is_listed_as_installed_and_not_shown() -> None:
    listings = json.loads(RUNNER.invoke(app, ["models", "list", "--json"]).stdout)
    assert [(one["name"], one["state"]) for one in listings] == [
        ("smollm2-135m-instruct", "installed"),
        ("gemma-3-270m", "absent"),
        ("all-minilm-l6-v2", "ready"),
    ]
    result = RUNNER.invoke(app, ["models", "show", "smollm2-135m-instruct"])
    assert result.exit_code == 4
    assert "tunewise models pull smollm2-135m-instruct" in result.stderr


@pytest.mark.parametrize("command", ["pull", "show"])
def test_a_model_of_embeddings_is_used_from_its_package(command: str) -> None:
    found = json.loads(RUNNER.invoke(app, ["models", command, "all-minilm-l6-v2", "--json"]).stdout)
    assert (found["name"], Path(found["path"]).name) == ("all-minilm-l6-v2", "model")
    assert "22.7 M parameters, for embeddings" in RUNNER.invoke(app, ["models", command, "all-minilm-l6-v2"]).stdout


def test_pull_of_a_directory_only_checks_it(tiny_model: BaseModelRef) -> None:
    result = RUNNER.invoke(app, ["models", "pull", str(tiny_model.path), "--json"])
    assert json.loads(result.stdout) == tiny_model.model_dump(mode="json")


def test_show_tells_size_context_and_files(tiny_model: BaseModelRef) -> None:
    facts = json.loads(RUNNER.invoke(app, ["models", "show", str(tiny_model.path), "--json"]).stdout)
    assert facts["parameters"] == tiny_model.parameters
    assert facts["num_hidden_layers"] == 2
    assert facts["bytes_on_disk"] > 4 * tiny_model.parameters
    assert "context length" in RUNNER.invoke(app, ["models", "show", str(tiny_model.path)]).stdout


def test_a_known_failure_is_one_message_and_an_exit_code() -> None:
    result = RUNNER.invoke(app, ["models", "pull", "no-such-model"])
    assert result.exit_code == 4
    assert result.stdout == ""
    assert result.stderr.startswith("error (unknown_model): 'no-such-model'")
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_environment_variable_that_cannot_be_read_is_named() -> None:
    command = [sys.executable, "-m", "tunewise.cli", "models", "list"]
    child = subprocess.run(command, capture_output=True, text=True, check=False, env={"HF_HUB_OFFLINE": "perhaps"})
    assert child.returncode == 2
    assert "HF_HUB_OFFLINE is 'perhaps'" in child.stderr
    assert "Traceback" not in child.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tunewise.cli import app; app(['--help'], standalone_mode=False); "
        "print(sorted({'pydantic', 'numpy', 'torch', 'rich', 'yaml', 'scipy', 'openai'} & set(sys.modules)))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_of_its_own(name: str) -> None:
    result = RUNNER.invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert f"tunewise {name}" in result.stdout
