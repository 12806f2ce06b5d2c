"""The proxy as its user holds it: started and closed, asked what it saw, and told what goes wrong."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from llm_config_mock_server.hosts.port import Port
from llm_config_mock_server.randomness import Randomness

from .certificates import Certificates
from .plan import Plan
from .running import Running
from .trouble import Certificate, Kind, Side, Trouble, check

if TYPE_CHECKING:
    from types import TracebackType

    import trustme

LOOPBACK: Final = "127.0.0.1"
_PORTS: Final = {"http": 80, "https": 443}


class FaultProxy:
    """A TCP proxy on a loopback port that can break the wire to any server.

    As a context manager (`with` and `async with` alike) it is started, and closed at the end.

        with FaultProxy("http://127.0.0.1:8080") as proxy, ConfigClient(proxy.url) as client:
            with proxy.reset(after=100):  # in the middle of every reply
                entry = client.get_config("app/llm", "model", fallback="gpt-4")
                assert entry.source == "default"

    Every method that breaks something returns a `Trouble`, which heals at the end of its `with`
    block; troubles of different kinds add up, of one kind the latest counts. They strike new
    connections and open ones alike. The methods return at once and can be called from any thread
    and from async code.

    Args:
        target_url: The server's base URL. With `https` and without `tls`, its TLS is passed through.
        port: The port; 0 takes a free one.
        host: The address to listen on.
        seed: Makes drawn delays and exchanges repeatable; drawn if left out (see `seed`).
        tls: Whether to speak HTTPS itself, with a certificate of a throw-away authority (needs
            `trustme`); `certificate` is then a fault that can be made.
        target_ssl: How to trust an `https` target, where the proxy itself speaks TLS.

    Raises:
        ValueError: The target is no http(s) URL.
    """

    def __init__(
        self,
        target_url: str,
        *,
        port: int = 0,
        host: str = LOOPBACK,
        seed: int | None = None,
        tls: bool = False,
        target_ssl: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare; nothing is bound before `start`."""
        target = urlsplit(str(target_url))
        if target.scheme not in _PORTS or not target.hostname:
            raise ValueError(f"the target must be an http:// or https:// URL, not {target_url!r}")
        self.target_url = target_url
        self._path = target.path.rstrip("/")
        self._scheme = "https" if tls else target.scheme
        if not tls or target.scheme != "https":
            target_ssl = None
        elif target_ssl is None:
            target_ssl = ssl.create_default_context()
        self._host = host
        self._wanted_port = port
        self._port: Port | None = None
        self._randomness = Randomness(seed)
        self._certificates = Certificates(host) if tls else None
        address = target.hostname, target.port or _PORTS[target.scheme]
        self._plan = Plan(address, self._randomness, self._certificates, target_ssl)
        self._running: Running | None = None

    # --- Running ----------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen. Starting what runs changes nothing.

        Raises:
            OSError: The port cannot be had.
        """
        if self._running is None:
            if self._port is None:
                self._port = Port(self._host, self._wanted_port)
            self._running = Running(self._plan, self._port)
        return self

    def close(self) -> None:
        """Stop, drop every connection, and give the port back. Closing twice changes nothing."""
        running, self._running = self._running, None
        if running is not None:
            running.close()
        port, self._port = self._port, None
        if port is not None:
            port.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = self.url if self._running is not None else "stopped"
        return f"<FaultProxy {where} before {self.target_url}>"

    # --- Where it is, and what it saw -------------------------------------------------------------

    @property
    def url(self) -> str:
        """The base URL to give to clients, with the path of the target's.

        Raises:
            RuntimeError: The proxy was never started.
        """
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{self._scheme}://{host}:{self.port}{self._path}"

    @property
    def port(self) -> int:
        """The port.

        Raises:
            RuntimeError: The proxy was never started.
        """
        if self._port is None:
            raise RuntimeError("the proxy has no port before it is started")
        return self._port.number

    @property
    def seed(self) -> int:
        """The seed, drawn where none was given."""
        return self._randomness.seed

    @property
    def open_connections(self) -> int:
        """How many connections of clients are open now."""
        return 0 if self._running is None else self._running.open_connections

    @property
    def connections(self) -> int:
        """How many connections were accepted."""
        return self._plan.connections

    @property
    def request_bytes(self) -> int:
        """How many bytes were passed on to the target."""
        return self._plan.passed["request"]

    @property
    def response_bytes(self) -> int:
        """How many bytes were passed on to clients."""
        return self._plan.passed["response"]

    @property
    def troubles(self) -> list[Trouble]:
        """What is wrong now, newest first."""
        return list(self._plan.troubles)

    @property
    def ca(self) -> trustme.CA:
        """The throw-away authority that signed the proxy's certificate.

        Raises:
            RuntimeError: The proxy does not speak TLS itself.
        """
        if self._certificates is None:
            raise RuntimeError("the proxy has no authority: it was made without tls=True")
        return self._certificates.authority

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """A context for clients that trusts this proxy's authority and nobody else.

        Raises:
            RuntimeError: The proxy does not speak TLS itself.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ca.configure_trust(context)
        return context

    # --- What goes wrong --------------------------------------------------------------------------

    def refuse(self) -> Trouble:
        """Refuse connections, and drop the open ones."""
        trouble = self._arm(Kind.REFUSE)
        if self._running is not None:
            self._running.stop_listening()
        return trouble

    def hang(self, *, times: int | None = None, probability: float = 1.0) -> Trouble:
        """Accept connections and requests, and never answer; the target sees nothing of them.

        Args:
            times: How many exchanges it strikes; `None` for all.
            probability: The share of the exchanges that it strikes, drawn from the seed.

        Raises:
            ValueError: A figure is outside its range.
        """
        return self._arm(Kind.HANG, times=times, probability=probability)

    def reset(
        self, *, after: int = 0, of: Side = "response", times: int | None = None, probability: float = 1.0
    ) -> Trouble:
        """Tear the connection down with RST in the middle of an exchange.

        Args:
            after: Bytes that still pass.
            of: Of what: the response (the target saw the request, and a write took effect), or the
                request (the target saw only so much of it).
            times: How many exchanges it strikes; `None` for all.
            probability: The share of the exchanges that it strikes, drawn from the seed.

        Raises:
            ValueError: A figure is outside its range.
        """
        return self._arm(Kind.RESET, after=after, of=of, times=times, probability=probability)

    def cut(
        self, *, after: int = 0, of: Side = "response", times: int | None = None, probability: float = 1.0
    ) -> Trouble:
        """Close the connection in an orderly way in the middle of an exchange; takes what `reset` takes."""
        return self._arm(Kind.CUT, after=after, of=of, times=times, probability=probability)

    def half_close(self, *, after: int = 0, times: int | None = None, probability: float = 1.0) -> Trouble:
        """End the server's direction after so many bytes of the response, and go on reading the client's.

        Under TLS the connection is closed: TLS has no half. Otherwise as `reset`.
        """
        return self._arm(Kind.HALF_CLOSE, after=after, times=times, probability=probability)

    def latency(self, seconds: float, *, jitter: float = 0.0) -> Trouble:
        """Delay the first byte of every response.

        Args:
            seconds: How long.
            jitter: How much longer at most, drawn evenly from the seed.

        Raises:
            ValueError: A figure is negative.
        """
        return self._arm(Kind.LATENCY, seconds=seconds, jitter=jitter)

    def bandwidth(self, bytes_per_second: float) -> Trouble:
        """Limit each direction of each connection.

        Raises:
            ValueError: The figure is not positive.
        """
        if not bytes_per_second > 0:
            raise ValueError(f"a bandwidth must be positive, not {bytes_per_second}")
        return self._arm(Kind.BANDWIDTH, rate=bytes_per_second)

    def blackhole(self) -> Trouble:
        """Let nothing through and close nothing; what was held back flows on once it is healed."""
        return self._arm(Kind.BLACKHOLE)

    def certificate(self, kind: Certificate) -> Trouble:
        """Show another certificate in new handshakes, and drop open connections so that there are some.

        Args:
            kind: `expired`, `wrong-host`, or `untrusted` (signed by an authority that nobody knows).

        Raises:
            RuntimeError: The proxy does not speak TLS itself.
            ValueError: There is no such kind.
        """
        if self._certificates is None:
            raise RuntimeError("the proxy shows no certificate: it was made without tls=True")
        self._certificates.context(kind)
        trouble = self._arm(Kind.CERTIFICATE, certificate=kind)
        self.drop()
        return trouble

    def drop(self) -> None:
        """Close every open connection, once."""
        if self._running is not None:
            self._running.drop()

    def heal(self, trouble: Trouble | None = None) -> None:
        """Make one trouble well again, or all of them; connections that were struck stay lost."""
        self._plan.heal(trouble)
        if self._running is not None:
            if self._plan.current(Kind.REFUSE) is None:
                self._running.listen()
            self._running.tell()

    def _arm(self, kind: Kind, **told: Any) -> Trouble:
        trouble = Trouble(self.heal, kind, **told)
        check(trouble)
        self._plan.arm(trouble)
        if self._running is not None:
            self._running.tell()
        return trouble
