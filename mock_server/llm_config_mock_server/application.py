"""The server as an ASGI application: `create_app`, for mounting and for uvicorn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .server import MockServer

if TYPE_CHECKING:
    from .hosts.asgi import Receive, Scope, Send


class Application:
    """An ASGI 3 application that is the server; `create_app` is how one is made.

    Args:
        server: What it serves, and how it is filled, steered and questioned: `app.server.put(…)`.
    """

    def __init__(self, server: MockServer) -> None:
        """Take over a server, running or not."""
        self.server = server
        self._serve = server.asgi_app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or the application's lifespan."""
        await self._serve(scope, receive, send)

    def __repr__(self) -> str:
        return f"<Application of {self.server!r}>"


def create_app(profile: Any = "guide", *, server: MockServer | None = None, **options: Any) -> Application:
    """Make an ASGI application (HTTP and lifespan), which needs no port of its own.

        app = create_app(auth=False)
        app.server.put("app/llm", "model", "gpt-4")
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://config.test")

    Or `uvicorn --factory llm_config_mock_server:create_app`. Faults of the wire are not an
    application's to make: arming one raises a `ValueError` that says so.

    Args:
        profile: How the server speaks.
        server: A server to share, entries, faults and journal; then no other argument counts.
        options: What `MockServer` takes.

    Raises:
        ValueError: An argument is outside its range, or the server to share has faults armed that
            an application cannot carry.
    """
    return Application(MockServer(profile, **options) if server is None else server)
