"""Failures are logged with their request's id, as in the guide's server-side example."""

import logging

import pytest

from llm_config_mock_server import MockServer

ITEM = "/api/v1/configs/app%2Fllm/model"


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if hasattr(record, "request_id")]


@pytest.mark.parametrize(
    ("kind", "level", "code", "retriable"),
    [
        ("unavailable", "WARNING", "STORAGE_ERROR", True),
        ("StorageFull", "ERROR", "STORAGE_ERROR", False),
        ("disconnected", "WARNING", "DATABASE_ERROR", True),
    ],
)
def test_a_servers_failure_is_a_warning_where_it_may_pass_and_an_error_where_it_will_not(  # noqa: PLR0917 - fixtures and a row
    server, client, caplog, kind, level, code, retriable
):
    server.conditions["store"] = kind
    reply = client.get(ITEM, headers={"x-request-id": "abc-1"})
    (record,) = logged(caplog)
    assert (record.name, record.levelname) == ("llm_config_mock_server", level)
    assert (record.request_id, record.code, record.retriable) == ("abc-1", code, retriable)
    assert (record.status, record.method, record.path) == (reply.status_code, "GET", ITEM)
    assert "abc-1" in record.message
    assert reply.json()["error"]["message"] in record.message


def test_a_callers_mistake_is_for_whoever_debugs(client, caplog):
    with caplog.at_level(logging.DEBUG, "llm_config_mock_server"):
        client.get(ITEM)
    assert [(record.levelname, record.code) for record in logged(caplog)] == [("DEBUG", "NOT_FOUND")]


def test_a_secret_is_in_no_line(client, caplog):
    with caplog.at_level(logging.DEBUG):
        client.delete("/api/v1/vault/keys/active")
        assert client.post(ITEM, json={"value": "s3cr3t", "env": "dev", "secret": True}).status_code == 500
    assert logged(caplog)
    assert "s3cr3t" not in caplog.text


def test_nothing_is_configured_at_import():
    assert MockServer.__module__
    assert logging.getLogger("llm_config_mock_server").handlers == []
    assert logging.getLogger("llm_config_mock_server").level == logging.NOTSET
