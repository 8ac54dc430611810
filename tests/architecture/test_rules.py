"""The rules of the house that a machine can check: import directions, sizes, names, comments that promise."""

import ast
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for folder in ("src", "tests", "benchmarks", "examples", "scripts") for path in (ROOT / folder).rglob("*.py")
)
PRODUCT = [path for path in SOURCES if path.is_relative_to(ROOT / "src")]
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
FORBIDDEN_NAMES = {
    "utils",
    "util",
    "common",
    "core",
    "base",
    "manager",
    "service",
    "helper",
    "helpers",
    "handler",
    "misc",
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without the docstring: explaining a shape must not cost a rule."""
    docstring = node.body[0] if ast.get_docstring(node) else None
    documented = (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0
    return (node.end_lineno or 0) - node.lineno + 1 - documented


def test_imports_point_down() -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or "lint-imports"
    result = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_module_says_what_it_is() -> None:
    assert [relative(path) for path in PRODUCT if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_files_are_short() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    long = {
        f"{relative(path)}:{node.lineno} {node.name}": lines_of(node)
        for path in SOURCES
        for node in functions(path)
        if lines_of(node) > MAX_FUNCTION_LINES
    }
    assert long == {}


def test_test_modules_have_names_of_their_own() -> None:
    """pytest imports them by their base names."""
    names = Counter(path.name for path in SOURCES if path.name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    assert [
        relative(path) for path in PRODUCT if FORBIDDEN_NAMES & set(path.relative_to(ROOT).with_suffix("").parts)
    ] == []


def test_only_settings_reads_the_environment() -> None:
    readers = [relative(path) for path in PRODUCT if re.search(r"os\.(environ|getenv)", path.read_text())]
    assert readers in ([], ["src/tunewise/settings.py"])


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "XX" + "X", "except Exception:\n        pass"])
def test_nothing_is_put_off_or_swallowed(word: str) -> None:
    assert [relative(path) for path in SOURCES if word in path.read_text()] == []


def test_no_path_of_one_machine_stands_in_the_project() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    texts = [ROOT / name for name in tracked if (ROOT / name).is_file() and not name.endswith((".png", ".gguf"))]
    pattern = re.compile(r"(?<![\w.])/(?:work|root|home/\w+)/")
    assert [relative(path) for path in texts if pattern.search(path.read_text(encoding="utf-8", errors="ignore"))] == []


def test_the_command_documentation_is_up_to_date() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
