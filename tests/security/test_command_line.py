"""What the command line prints, in each command and form: no token, no password, no secret unasked."""

import pytest
from typer.testing import CliRunner

from llm_config_mock_server import MockServer
from llm_config_sdk.cli.app import app
from security.echo import EchoServer

CANARY = "canary-4711-sk"
COMMANDS = {
    "get": ["get", "app", "api-key"],
    "get, of what is not there": ["get", "app", "nothing"],
    "list": ["list", "app"],
    "history": ["history", "app", "api-key"],
    "export": ["export", "app"],
    "set": ["set", "app", "model", "1"],
    "set, a secret": ["set", "app", "api-key", CANARY, "--secret"],
    "health": ["health"],
    "doctor": ["doctor"],
}


@pytest.fixture
def server():
    with MockServer(seed=1) as running:
        running.put("app", "api-key", CANARY, env="production", secret=True)
        yield running


def printed(command, url, *, token, monkeypatch):
    """Run a command for people and for machines; what is printed, a failure's traceback too."""
    monkeypatch.setenv("LLM_CONFIG_BASE_URL", url)
    monkeypatch.setenv("LLM_CONFIG_ENVIRONMENT", "production")
    monkeypatch.setenv("LLM_CONFIG_TOKEN", token)
    for form in ((), ("--json",)):
        result = CliRunner().invoke(app, [*command, *form, "--timeout", "20"])
        yield f"{result.output}{result.exception!r}"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_secret_is_not_printed(server, name, monkeypatch):
    for text in printed(COMMANDS[name], server.url, token=server.token("admin"), monkeypatch=monkeypatch):
        assert text.strip()
        assert CANARY not in text
        assert server.token("admin") not in text


@pytest.mark.parametrize("shape", ["envelope", "page", "text"])
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "doctor"])
def test_nor_is_a_token_that_a_server_says_back(name, shape, monkeypatch):
    with EchoServer() as echo:
        echo.shape = shape
        for text in printed(COMMANDS[name], echo.url, token=CANARY, monkeypatch=monkeypatch):
            assert text.strip()
            assert CANARY not in text


@pytest.mark.parametrize("url", [f"http://ann:{CANARY}@config.test", f"http://config.test/?token={CANARY}"])
@pytest.mark.parametrize("name", COMMANDS)
def test_nor_is_a_password_in_the_base_url(name, url, monkeypatch):
    for text in printed(COMMANDS[name], url, token="t", monkeypatch=monkeypatch):
        assert text.strip()
        assert CANARY not in text


def test_with_reveal_it_is(server, monkeypatch):
    command = ["get", "app", "api-key", "--reveal"]
    for text in printed(command, server.url, token=server.token("admin"), monkeypatch=monkeypatch):
        assert CANARY in text
