"""An entry is a flag."""

from llm_config_mock_server import MockServer
from llm_config_sdk import ConfigClient
from llm_config_sdk.openfeature import LLMConfigProvider

with MockServer(seed=1) as server:
    server.put("app/flags", "dark-mode", True)
    with ConfigClient(server.url, token=server.token(), environment="development") as client:
        assert LLMConfigProvider(client, "app/flags").resolve_boolean_details("dark-mode", False).value
