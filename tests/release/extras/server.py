"""The server speaks TLS and keeps secrets."""

from llm_config_mock_server import MockServer
from llm_config_sdk import ConfigClient

with MockServer(seed=1, tls=True) as server:
    server.put("app/llm", "api-key", "sk-1", secret=True)
    with ConfigClient(
        server.url, token=server.token(), environment="development", verify=server.ssl_context
    ) as client:
        assert client.get_config("app/llm", "api-key").value.get_secret_value() == "sk-1"
