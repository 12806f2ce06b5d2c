"""An ASGI application under a real uvicorn on a loopback port, in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

START_SECONDS = 10.0  # far beyond what uvicorn needs


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def under_uvicorn(app: Any) -> Iterator[str]:
    """Serve an application, and give its URL."""
    config = uvicorn.Config(
        app, port=0, http="h11", ws="none", loop="asyncio", lifespan="on", log_config=None, access_log=False
    )
    server = _Server(config)
    thread = threading.Thread(target=server.run, name="uvicorn", daemon=True)
    thread.start()
    assert server.ready.wait(START_SECONDS)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(START_SECONDS)
        assert not thread.is_alive()
