"""Settings from the environment: what is wrong with one is said with its variable."""

import pytest

from tunewise.errors import ConfigError
from tunewise.settings import OpenAIEngine, TorchEngine, get_settings


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TUNEWISE_ALLOWED_HOSTS", "box.example", "allowed_hosts.*no JSON"),
        ("TUNEWISE_ALLOWED_HOSTS", '["box.example:8321"]', "TUNEWISE_ALLOWED_HOSTS is 'box.example:8321'"),
        ("TUNEWISE_ALLOWED_ORIGINS", '["box.example"]', "TUNEWISE_ALLOWED_ORIGINS is 'box.example'"),
        ("TUNEWISE_MAX_UPLOAD_MB", "many", "TUNEWISE_MAX_UPLOAD_MB is 'many'"),
        ("TUNEWISE_ENGINE", '{"kind": "llama"}', "TUNEWISE_ENGINE is .*'torch', 'openai', 'vllm'"),
        ("TUNEWISE_ENGINE", '{"kind": "openai"}', "TUNEWISE_ENGINE is .*Field required"),
        ("TUNEWISE_ENGINE", '{"kind": "openai", "base_url": "gpu:8000"}', "TUNEWISE_ENGINE is 'gpu:8000'"),
        ("TUNEWISE_ENGINE", '{"kind": "vllm", "max_lora_rank": 12}', "TUNEWISE_ENGINE is 12"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str) -> None:
    monkeypatch.setenv(variable, value)
    get_settings.cache_clear()
    with pytest.raises(ConfigError, match=said):
        get_settings()
    get_settings.cache_clear()


def test_an_engine_is_named_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    get_settings.cache_clear()
    assert get_settings().engine == TorchEngine()
    assert get_settings().models_elsewhere == ()
    given = '{"kind": "openai", "base_url": "http://gpu:8000/v1", "models": {"ours": "theirs"}}'
    monkeypatch.setenv("TUNEWISE_ENGINE", given)
    get_settings.cache_clear()
    assert get_settings().engine == OpenAIEngine.model_validate_json(given)
    assert get_settings().models_elsewhere == ("ours",)
    get_settings.cache_clear()
