"""The wheel without any extra: clients read from a server, and a pipeline bridges an outage."""

import asyncio
import subprocess
import sys
from importlib.util import find_spec

from llm_config_mock_server import MockServer
from llm_config_resilience import Fallback, Pipeline
from llm_config_sdk import AsyncConfigClient, ConfigClient

with MockServer(seed=1) as server:
    server.put("app/llm", "model", "gpt-4")
    with ConfigClient(server.url, token=server.token(), environment="development") as client:
        assert client.get_str("app/llm", "model") == "gpt-4"

    async def read() -> str:
        """Read the same in async."""
        async with AsyncConfigClient(server.url, token=server.token(), environment="development") as client:
            return await client.get_str("app/llm", "model")

    assert asyncio.run(read()) == "gpt-4"

assert Pipeline(Fallback("spare")).call(lambda: 1 / 0) == "spare"

# The command line is an extra, and says so.
if find_spec("typer") is None:
    asked = subprocess.run([sys.executable, "-m", "llm_config_sdk"], capture_output=True, check=False)
    assert asked.returncode == 2
    assert b"llm-config-sdk[cli]" in asked.stderr
