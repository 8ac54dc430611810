"""Every text of the studio is there in every language, with the same places for values."""

import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

from tunewise.web.words import LANGUAGES

SCRIPT = Path(__file__).parents[2] / "scripts" / "translations.py"


def test_no_text_is_without_its_translation() -> None:
    told = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_a_translation_has_the_places_of_its_text(language: str) -> None:
    with resources.files("tunewise.web").joinpath(f"locale/{language}.po").open("rb") as file:
        entries = [(str(entry.id), str(entry.string)) for entry in read_po(file, locale=language) if entry.id]
    assert len(entries) > 100
    wrong = [text for text, said in entries if set(places(text)) != set(places(said))]
    assert wrong == []


def places(text: str) -> list[str]:
    return re.findall(r"{(\w+)}", text)
