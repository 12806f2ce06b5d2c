"""Calls are counted, and the rules and the dashboard are there."""

from llm_config_mock_server import MockServer
from llm_config_sdk import ConfigClient
from llm_config_sdk.observability import PrometheusMetrics
from llm_config_sdk.observability.prometheus import DASHBOARD, RULES

metrics = PrometheusMetrics()
with MockServer(seed=1) as server:
    server.put("app/llm", "model", "gpt-4")
    with ConfigClient(
        server.url, token=server.token(), environment="development", listeners=[metrics]
    ) as client:
        assert client.get_str("app/llm", "model") == "gpt-4"
assert RULES.exists()
assert DASHBOARD.exists()
