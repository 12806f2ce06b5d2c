"""Arguments and `LLM_CONFIG_*` variables: who wins, and what is said of a wrong one."""

import pytest

from llm_config_sdk import ConfigClient
from llm_config_sdk.contract import Environment
from llm_config_sdk.errors import InvalidRequestError
from llm_config_sdk.settings import misspelt_variables, read_settings


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


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LLM_CONFIG_BASEURL", "LLM_CONFIG_BASE_URL"),
        ("LLM_CONFIG_URL", "LLM_CONFIG_BASE_URL"),
        ("LLM_CONFIG_ENV", "LLM_CONFIG_ENVIRONMENT"),
        ("LLM_CONFIG_TIMEOUT_SECONDS", "LLM_CONFIG_TIMEOUT"),
        ("llm_config_enviroment", "LLM_CONFIG_ENVIRONMENT"),
    ],
)
def test_a_variable_that_looks_meant_for_a_setting_is_found(name, meant):
    assert misspelt_variables({name: "x"}) == [(name, meant)]


def test_no_variable_is_taken_for_a_misspelt_one_without_reason():
    set_already = {"LLM_CONFIG_TOKEN": "x", "LLM_CONFIG_TOKEN_OF_CI": "y"}
    assert (
        misspelt_variables({**set_already, "LLM_CONFIG_COLOUR": "red", "LLM_CONFIG_": "", "ENV": "x"}) == []
    )


def test_the_reason_is_told_without_the_name_of_its_class():
    with pytest.raises(InvalidRequestError) as caught:
        read_settings({"base_url": "config.example.com"})
    assert "base_url=…: the base URL must begin with" in caught.value.message


def test_a_client_logs_a_warning_of_a_misspelt_variable(clean_environment, caplog):
    clean_environment.setenv("LLM_CONFIG_ENV", "production")
    ConfigClient("http://127.0.0.1:1").close()
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [("WARNING", "LLM_CONFIG_ENV is not read; did you mean LLM_CONFIG_ENVIRONMENT?")]
