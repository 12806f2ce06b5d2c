"""The clients: one face on the operations for sync code, the same one for asyncio and trio."""

from llm_config_sdk.client.async_client import AsyncConfigClient
from llm_config_sdk.client.sync_client import ConfigClient

__all__ = ["AsyncConfigClient", "ConfigClient"]
