"""The shop's own test, with the fixtures' types."""

from llm_config_mock_server import MockServer, error, latency
from llm_config_sdk import ConfigClient
from shop.settings import limit


def test_the_limit_survives_two_failures(mock_config_server: MockServer, config_client: ConfigClient) -> None:
    mock_config_server.put("shop/writing", "limit", 100)
    with mock_config_server.script("GET *", [error("STORAGE_ERROR"), latency(0.01)]) as rule:
        assert limit(config_client) == 100
    assert rule.fired == 2
    mock_config_server.journal.assert_requested(key="limit")
