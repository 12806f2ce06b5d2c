"""Calls are told to OpenTelemetry."""

from llm_config_mock_server import MockServer
from llm_config_sdk import ConfigClient
from llm_config_sdk.observability import OpenTelemetry

with MockServer(seed=1) as server:
    server.put("app/llm", "model", "gpt-4")
    with ConfigClient(
        server.url, token=server.token(), environment="development", listeners=[OpenTelemetry()]
    ) as client:
        assert client.get_str("app/llm", "model") == "gpt-4"
