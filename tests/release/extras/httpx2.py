"""A client reads over connections of httpx2's lower half."""

from llm_config_mock_server import MockServer
from llm_config_sdk import ConfigClient

with MockServer(seed=1) as server:
    server.put("app/llm", "model", "gpt-4")
    with ConfigClient(
        server.url, token=server.token(), environment="development", transport="httpx2"
    ) as client:
        assert client.get_str("app/llm", "model") == "gpt-4"
