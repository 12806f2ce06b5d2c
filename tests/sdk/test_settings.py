"""Arguments and `LLM_CONFIG_*` variables: who wins, and what is said of a wrong one."""

import pytest

from llm_config_sdk.contract import Environment
from llm_config_sdk.errors import InvalidRequestError
from llm_config_sdk.settings import read_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("BASE_URL", "TOKEN", "ENVIRONMENT", "USER", "BACKUPS", "TIMEOUT"):
        monkeypatch.delenv(f"LLM_CONFIG_{name}", raising=False)
    return monkeypatch


def test_the_defaults_are_explicit():
    settings = read_settings({})
    assert (settings.environment, settings.timeout, settings.backups) == (Environment.DEVELOPMENT, 10.0, ())
    assert settings.base_url is settings.token is settings.user is None


def test_variables_are_read(clean_environment):
    for name, value in {
        "BASE_URL": "http://a",
        "TOKEN": "t",
        "ENVIRONMENT": "PROD",
        "USER": "ann",
        "BACKUPS": "http://b, http://c,",
        "TIMEOUT": "2.5",
    }.items():
        clean_environment.setenv(f"LLM_CONFIG_{name}", value)
    settings = read_settings({})
    assert settings.base_url == "http://a"
    assert settings.token.get_secret_value() == "t"
    assert settings.environment is Environment.PRODUCTION
    assert settings.user == "ann"
    assert settings.backups == ("http://b", "http://c")
    assert settings.timeout == 2.5


def test_arguments_win_and_none_is_not_given(clean_environment):
    clean_environment.setenv("LLM_CONFIG_USER", "from the environment")
    assert read_settings({"user": "ann"}).user == "ann"
    assert read_settings({"user": None}).user == "from the environment"


def test_an_empty_variable_counts_as_not_set(clean_environment):
    clean_environment.setenv("LLM_CONFIG_TIMEOUT", "")
    assert read_settings({}).timeout == 10.0


@pytest.mark.parametrize(
    ("variable", "value"), [("TIMEOUT", "soon"), ("TIMEOUT", "-1"), ("ENVIRONMENT", "moon"), ("TOKEN", " ")]
)
def test_a_wrong_variable_is_named(clean_environment, variable, value):
    clean_environment.setenv(f"LLM_CONFIG_{variable}", value)
    with pytest.raises(InvalidRequestError, match=f"LLM_CONFIG_{variable}: "):
        read_settings({})


def test_a_wrong_argument_is_named_as_one(clean_environment):
    clean_environment.setenv("LLM_CONFIG_TIMEOUT", "5")
    with pytest.raises(InvalidRequestError, match="timeout=…"):
        read_settings({"timeout": -1})


def test_a_wrong_token_is_not_shown():
    with pytest.raises(InvalidRequestError) as caught:
        read_settings({"token": b"s3cr3t\xff"})
    assert "s3cr3t" not in str(caught.value)
    assert "t0k3n" not in repr(read_settings({"token": "t0k3n"}))
