"""Settings from the environment: what is wrong with one is said with its variable."""

import pytest

from tunewise.errors import ConfigError
from tunewise.settings import get_settings


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TUNEWISE_ALLOWED_HOSTS", "box.example", "allowed_hosts.*no JSON"),
        ("TUNEWISE_ALLOWED_HOSTS", '["box.example:8321"]', "TUNEWISE_ALLOWED_HOSTS is 'box.example:8321'"),
        ("TUNEWISE_ALLOWED_ORIGINS", '["box.example"]', "TUNEWISE_ALLOWED_ORIGINS is 'box.example'"),
        ("TUNEWISE_MAX_UPLOAD_MB", "many", "TUNEWISE_MAX_UPLOAD_MB is 'many'"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str) -> None:
    monkeypatch.setenv(variable, value)
    get_settings.cache_clear()
    with pytest.raises(ConfigError, match=said):
        get_settings()
    get_settings.cache_clear()
