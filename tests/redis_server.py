"""A Redis of the tests' own: `redis_url` is one that all share, a `RedisServer` may be stopped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def find_program() -> str:
    """Find the server, or skip the test; where everything has to be there, fail it."""
    program = shutil.which("redis-server")
    if program is None:
        missing = "redis-server is not installed (Debian: apt-get install redis-server)"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(missing)
        pytest.skip(missing)
    return program


class RedisServer:
    """An empty Redis on loopback, which keeps its port when it is stopped and started."""

    def __init__(self, home: Path) -> None:
        self._program = find_program()
        self._home = home
        self._process: subprocess.Popen[str] | None = None
        self.port = free_port()
        while not self.start():  # another program was quicker
            self.port = free_port()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> bool:
        """Start it, empty; say whether the port was free."""
        options = f"--bind 127.0.0.1 --port {self.port} --dir {self._home} --appendonly no --daemonize no"
        self._process = subprocess.Popen(
            [self._program, *options.split(), "--save", ""], stdout=subprocess.PIPE, text=True
        )
        said = ""
        for line in self._process.stdout or ():
            said += line
            if "Ready to accept connections" in line:
                return True
        self.stop()
        if "Address already in use" not in said:
            pytest.fail(f"redis-server did not start: {said}")
        return False

    def stop(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            with suppress(OSError):
                self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of our own, empty and gone with the tests."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url
