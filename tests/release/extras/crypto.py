"""A secret is kept on disk, encrypted, and comes back after a restart."""

from pathlib import Path

from llm_config_mock_server import MockServer
from llm_config_sdk import ConfigClient, SnapshotPolicy

KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="  # Fernet's form: 32 bytes in URL-safe base64
policy = SnapshotPolicy(path=Path("sealed.json"), encryption_key=KEY)

with MockServer(seed=1) as server:
    where = {"token": server.token(), "environment": "development", "snapshot": policy}
    with ConfigClient(server.url, **where) as client:
        client.set_config("app/llm", "api-key", "sk-1", secret=True)
        client.get_config("app/llm", "api-key")
    server.stop()
    with ConfigClient(server.url, **where) as client:
        assert client.get_config("app/llm", "api-key").source == "snapshot"
assert "sk-1" not in Path("sealed.json").read_text()
