"""`MockServer`: the reference server, started and steered from a test."""

from __future__ import annotations

import hashlib
import time
from enum import Enum, auto
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, Literal, Self, overload

from llm_config_sdk.contract import Environment, key_problem, namespace_problem

from .aside import Aside
from .authority import make_authority
from .console import PATH as CONSOLE_PATH
from .core import VALUE_MAX_BYTES, Core, Options, Platform
from .faults import CHAOS_RATE, FaultBook, Match, Repeat, Rule, Step, error
from .hosts.socket import SocketHost
from .journal import KEPT_REQUESTS, Journal
from .limiter import Limits
from .messages import At
from .profiles import ProfileName, load_profile
from .randomness import Randomness
from .rbac import EVERYWHERE, Grant
from .sqlite_storage import SqliteStorage
from .storage import Address, MemoryStorage, Storage
from .store import Record
from .vault import KEY_BYTES, CryptoError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType

    import httpx
    import httpx2
    import trustme

    from .conditions import Conditions
    from .hosts.asgi import Gateway
    from .hosts.transport import Family, InProcessHost


class _FromSeed(Enum):
    """Stands for a key that is made from the seed."""

    FROM_SEED = auto()


_FROM_SEED: Final = _FromSeed.FROM_SEED
LOOPBACK: Final = "127.0.0.1"
PORT_MAX: Final = 65_535


class MockServer:
    """The reference server on a real loopback socket, served from a thread.

    As a context manager (`with` and `async with` alike) it is started, and closed at the end.

        with MockServer() as server:
            server.put("app/llm", "model", "gpt-4")
            httpx.get(f"{server.url}/api/v1/configs/app%2Fllm/model",
                      headers={"authorization": f"Bearer {server.token('viewer')}"})

    Args:
        profile: How the server speaks: `guide`, as the platform's guide says, or `upstream-0.5`, as the
            published server does (which wants the header `X-Forwarded-Proto: https`).
        port: The port; 0 takes a free one at the first start and keeps it.
        host: The address to listen on.
        storage: Where everything lies that is kept: the path of a sqlite database, which is made where
            there is none; in memory if left out. A database keeps entries with their histories, audit
            events, users, custom roles, the vault's keys, replies under idempotency keys, and the seed.
        seed: Makes ids, tokens, drawn faults and delays repeatable; drawn if left out (see `seed`).
        tls: Whether to speak HTTPS, with a certificate of a throw-away authority (needs `trustme`).
        limits: A caller's rate limit; `True` is the one that the profile documents (the guide has
            none; 0.5 has 10 a second, and bans), `False` is none.
        auth: Whether a bearer token is asked for.
        encryption_key: Key 1 of the vault, 32 bytes; made from the seed if left out, `None` for a
            vault without a key. Keys that are added later are kept sealed under it. With a database, a
            key of one's own is what keeps secrets secret: the seed lies beside them.
        value_max_bytes: The longest value, in bytes of JSON.
        disk_bytes: Bytes that the disk holds, simulated for records in memory; `None` for no bound.
        admin: Whether the admin interface and the console are served, to the loopback and to admins.
        clock: What reads the time.
        journal_size: How many requests the journal remembers; older ones are forgotten.

    Raises:
        ValueError: An argument is outside its range, two contradict each other, or the database's vault
            was kept under another encryption key.
        OSError: The database cannot be opened or made.
    """

    def __init__(
        self,
        profile: ProfileName = "guide",
        *,
        port: int = 0,
        host: str = LOOPBACK,
        storage: Storage | str | PathLike[str] | None = None,
        seed: int | None = None,
        tls: bool = False,
        limits: bool | Limits = True,
        auth: bool = True,
        encryption_key: bytes | _FromSeed | None = _FROM_SEED,
        value_max_bytes: int = VALUE_MAX_BYTES,
        disk_bytes: int | None = None,
        admin: bool = False,
        clock: Callable[[], At] = At.now,
        journal_size: int = KEPT_REQUESTS,
    ) -> None:
        """Put the server together; nothing is bound before `start`."""
        if port not in range(PORT_MAX + 1):
            raise ValueError(f"a port is between 0 and {PORT_MAX}, not {port!r}")
        if disk_bytes is not None and disk_bytes < 0:
            raise ValueError(f"a disk has 0 bytes or more, not {disk_bytes}")
        spoken = load_profile(profile)
        randomness, kept, first_seed = _state(storage, seed, disk_bytes)
        seed_key = _key(first_seed)
        self._clock = clock
        self._is_tls = tls
        self._core = Core(
            spoken,
            Platform(
                kept,
                randomness,
                Options(auth=auth, value_max_bytes=value_max_bytes, caching=storage is None),
                limits=_limits(limits, spoken.default_limits),
                encryption_key=seed_key if isinstance(encryption_key, _FromSeed) else encryption_key,
                vault_origin=seed_key,
            ),
        )
        self._check_vault()
        self._core.aside = Aside(self, self._core, admin=admin).answerer
        self._is_admin = admin
        self._authority: trustme.CA | None = None
        self._host = host
        self._socket = SocketHost(
            self._core, interface=host, port=port, clock=clock, tls=self._server_side() if tls else None
        )
        self._core.journal = Journal(journal_size)
        self._in_process: InProcessHost | None = None
        self._is_away = False

    # --- Running ----------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen; after `stop`, on the same port and with the same state. Starting twice changes nothing.

        Raises:
            OSError: The port cannot be had.
        """
        self._socket.start()
        self._is_away = False
        if self._in_process is not None:
            self._in_process.start()
        return self

    def stop(self) -> None:
        """Go away as in an outage: connections are refused and open ones dropped; port and state are kept."""
        self._socket.stop()
        self._leave()

    def close(self) -> None:
        """Stop for good: give back the port, the thread and the storage."""
        self._socket.close()
        self._leave()
        self._core.platform.store.storage.close()

    def reset(self) -> None:
        """Go back to the beginning: no entries, faults, conditions or journal; tokens stay valid."""
        self._core.reset()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        if raised is None and self._core.defects:
            raise RuntimeError("the mock server itself failed; this is its defect") from self._core.defects[0]

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, raised, traceback)

    def __repr__(self) -> str:
        where = self.url if self._socket.is_running else "stopped"
        return f"<MockServer {self._core.profile.name} {where} seed={self.seed}>"

    # --- Without a socket -----------------------------------------------------------------------------

    @overload
    def transport(
        self, family: Literal["httpx"] = "httpx", *, sleep: Callable[[float], None] = time.sleep
    ) -> httpx.BaseTransport: ...
    @overload
    def transport(
        self, family: Literal["httpx2"], *, sleep: Callable[[float], None] = time.sleep
    ) -> httpx2.BaseTransport: ...
    def transport(self, family: Family = "httpx", *, sleep: Callable[[float], None] = time.sleep) -> Any:
        """Return a transport that brings a sync client's requests here, with no socket and no thread.

            with httpx.Client(transport=server.transport(), base_url="http://config.test") as client:
                print(client.get("/health").json()["status"])

        Any URL will do. The server need not be started; between `stop` and `start`, connections are
        refused. Faults raise what they would raise on the wire.

        Args:
            family: Whose client it is for: `httpx` or `httpx2`.
            sleep: What lets time pass while the server is slow.

        Raises:
            ValueError: There is no such family.
            ImportError: The family is not installed.
        """
        from .hosts.transport import sync_transport  # noqa: PLC0415 - only where there is no socket

        return sync_transport(self._in_process_host(), family, sleep)

    @overload
    def async_transport(
        self, family: Literal["httpx"] = "httpx", *, sleep: Callable[[float], Awaitable[None]] | None = None
    ) -> httpx.AsyncBaseTransport: ...
    @overload
    def async_transport(
        self, family: Literal["httpx2"], *, sleep: Callable[[float], Awaitable[None]] | None = None
    ) -> httpx2.AsyncBaseTransport: ...
    def async_transport(
        self, family: Family = "httpx", *, sleep: Callable[[float], Awaitable[None]] | None = None
    ) -> Any:
        """Return a transport that brings an async client's requests here, on asyncio or trio.

        Args:
            family: Whose client it is for: `httpx` or `httpx2`.
            sleep: What lets time pass while the server is slow; `anyio.sleep` if left out.

        Raises:
            ValueError: There is no such family.
            ImportError: The family is not installed.
        """
        import anyio  # noqa: PLC0415 - only where there is no socket

        from .hosts.transport import async_transport  # noqa: PLC0415 - only where there is no socket

        return async_transport(self._in_process_host(), family, anyio.sleep if sleep is None else sleep)

    def asgi_app(self) -> Gateway:
        """Return this server as an ASGI application; from now on, faults that it cannot carry are refused.

        Raises:
            ValueError: Such a fault is armed.
        """
        from .hosts.asgi import Gateway  # noqa: PLC0415 - only where an application is asked for

        return Gateway(self._core, self._clock)

    def _in_process_host(self) -> InProcessHost:
        from .hosts.transport import InProcessHost  # noqa: PLC0415 - only where there is no socket

        if self._in_process is None:
            self._in_process = InProcessHost(self._core, self._clock, is_away=self._is_away)
        return self._in_process

    def _leave(self) -> None:
        self._is_away = True
        if self._in_process is not None:
            self._in_process.stop()

    # --- Where it is, and who may come in -----------------------------------------------------------

    @property
    def url(self) -> str:
        """The base URL, without a path.

        Raises:
            RuntimeError: The server was never started.
        """
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._is_tls else 'http'}://{host}:{self.port}"

    @property
    def console_url(self) -> str:
        """The address of the console, for a browser on this machine.

        Raises:
            RuntimeError: The server has no console, or was never started.
        """
        if not self._is_admin:
            raise RuntimeError("the server has no console: it was made without admin=True")
        return f"{self.url}{CONSOLE_PATH}"

    @property
    def port(self) -> int:
        """The port, which stays the same until `close`.

        Raises:
            RuntimeError: The server was never started.
        """
        return self._socket.port

    @property
    def is_running(self) -> bool:
        """Whether the port answers."""
        return self._socket.is_running

    @property
    def seed(self) -> int:
        """The seed, drawn where none was given: with it, the same requests meet the same faults."""
        return self._core.platform.randomness.seed

    @property
    def ca(self) -> trustme.CA:
        """The throw-away authority that signed the server's certificate.

        Raises:
            RuntimeError: The server does not speak TLS.
        """
        if self._authority is None:
            raise RuntimeError("the server has no authority: it was made without tls=True")
        return self._authority

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """A context for clients that trusts this server and nobody else, made anew at every call.

        Raises:
            RuntimeError: The server does not speak TLS.
        """
        import ssl  # noqa: PLC0415 - costs start-up time, and most servers are plain

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ca.configure_trust(context)
        return context

    def token(self, role: str = "admin", *, scope: str = EVERYWHERE, user: str | None = None) -> str:
        """Return a bearer token of somebody who has a role; the same token for the same arguments.

        Args:
            role: `admin`, `editor`, `viewer`, `auditor`, or a custom role.
            scope: Where the role applies: `**`, `team-a`, `team-a/**`.
            user: The user's name; by default the role's, with the scope behind it unless it is `**`.

        Raises:
            RbacError: There is no such role, or the scope is none.
        """
        suffix = "" if scope == EVERYWHERE else "@" + scope.replace("/", ".").replace("*", "_")
        name = f"{role}{suffix}" if user is None else user
        with self._core.lock, self._core.platform.store.storage.transaction():
            self._core.platform.rbac.grant(name, Grant(role, scope))
            return self._core.platform.rbac.token(name)

    # --- What it holds ------------------------------------------------------------------------------

    def put(
        self,
        namespace: str,
        key: str,
        value: Any,
        *,
        env: str = Environment.DEVELOPMENT,
        secret: bool = False,
        user: str = "mock-server",
        tags: Iterable[str] = (),
        description: str | None = None,
    ) -> dict[str, Any]:
        """Write an entry past HTTP, roles, faults and audit, and return it as the wire would show it.

        Args:
            namespace: The namespace.
            key: The config's key.
            value: Any JSON; a secret must be a string.
            env: The environment, by any of its names.
            secret: Whether the value is sealed (needs `cryptography`).
            user: The author.
            tags: Tags of the entry.
            description: Its description.

        Raises:
            ValueError: A name breaks the platform's rules, or a secret is no string.
            CryptoError: The secret cannot be sealed.
        """
        address = _address(namespace, key, env)
        if secret and not isinstance(value, str):
            raise ValueError("a secret must be a string")
        platform = self._core.platform
        with self._core.lock:
            storage, now = platform.store, self._clock().rfc3339()
            before = storage.get(address)
            record = Record(
                id=before.id if before else platform.randomness.entry_id(),
                version=before.version + 1 if before else 1,
                value=platform.vault.seal(value) if secret else value,
                secret=secret,
                created_at=before.created_at if before else now,
                created_by=before.created_by if before else user,
                updated_at=now,
                updated_by=user,
                tags=tuple(tags),
                description=description,
                change_description="Configuration updated",
            )
            storage.put(address, record)
            if secret:
                platform.sealed_here.add(record.etag)
            return self._core.profile.entry(address, record, value)

    def entry(self, namespace: str, key: str, *, env: str = Environment.DEVELOPMENT) -> dict[str, Any] | None:
        """Return what is stored, past HTTP, roles and faults, or `None`; a secret as its ciphertext."""
        address = _address(namespace, key, env)
        with self._core.lock:
            record = self._core.platform.store.get(address)
            return None if record is None else self._core.profile.entry(address, record, record.value)

    # --- What goes wrong ----------------------------------------------------------------------------

    def script(
        self,
        match: Match | str,
        steps: Step | Iterable[Step],
        *,
        repeat: Repeat = "never",
        times: int = 1,
        probability: float = 1.0,
        between: tuple[float, float] | None = None,
        every: tuple[float, float] | None = None,
    ) -> Rule:
        """Script what happens to the requests that match, one step after the other.

            server.script("GET /api/v1/*", [error("SERVICE_UNAVAILABLE", retry_after=1), reset(), ok()])

        Of several rules that match, the one scripted last wins. After the last step the rule is
        spent and requests pass, unless `repeat` says otherwise.

        Args:
            match: Which requests: a `Match`, or a string such as `"GET /health"`, `"POST"`, `"*"`,
                `"GET app/llm/model"`.
            steps: What happens to them.
            repeat: `"never"`; `"last"`: the last step again and again; `"all"`: from the
                beginning; `"random"`: any step, drawn anew for every request.
            times: How often the whole sequence is gone through before that.
            probability: The share of the matching requests that the rule takes, between 0 and 1.
            between: When, in seconds from now: from the first up to the second.
            every: In which part of that: `(60, 5)` is the first five seconds of every minute.

        Returns:
            The rule: `.fired`, `.remove()`, or a context manager that takes it back.

        Raises:
            ValueError: No steps, or a figure outside its range.
        """
        return self._core.faults.script(
            match,
            steps,
            repeat=repeat,
            times=times,
            probability=probability,
            between=between,
            every=every,
            at=self._clock(),
        )

    def chaos(
        self, rate: float = CHAOS_RATE, steps: Iterable[Step] | None = None, *, match: Match | str = "/api/*"
    ) -> Rule:
        """Let a share of all requests fail, drawn from the seed.

        Args:
            rate: The share, between 0 and 1.
            steps: What may happen to them, each as likely; by default the guide's simulated failure
                of the store.
            match: Which requests.

        Returns:
            The rule, which ends the chaos as `Rule.remove` or at the end of a `with` block.
        """
        simulated = error(variant="config.StorageError", message="Simulated failure")
        return self.script(match, (simulated,) if steps is None else steps, repeat="random", probability=rate)

    @property
    def faults(self) -> FaultBook:
        """The rules that are armed, newest first: iterate over it, or `clear()` it."""
        return self._core.faults

    @property
    def conditions(self) -> Conditions:
        """The components that are not well: `server.conditions["store"] = "StorageFull"`."""
        return self._core.platform.conditions

    # --- What was seen ------------------------------------------------------------------------------

    @property
    def journal(self) -> Journal:
        """Every request with its outcome, and assertions about them."""
        return self._core.journal

    def _check_vault(self) -> None:
        platform = self._core.platform
        try:
            _ = platform.vault.keys
        except CryptoError as error:
            platform.store.storage.close()
            raise ValueError(f"encryption_key does not fit the storage: {error.message}") from error

    def _server_side(self) -> ssl.SSLContext:
        import ssl  # noqa: PLC0415 - costs start-up time, and most servers are plain

        self._authority = make_authority()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(self._host, "localhost").configure_cert(context)
        return context


def _state(
    storage: Storage | str | PathLike[str] | None, seed: int | None, disk_bytes: int | None
) -> tuple[Randomness, Storage, int]:
    """Return the source of randomness, the storage, and the seed that the vault's first key comes from."""
    if storage is None:
        randomness = Randomness(seed)
        return randomness, MemoryStorage(disk_bytes), randomness.seed
    if isinstance(storage, str | PathLike):
        database = SqliteStorage(storage, capacity=disk_bytes, seed=seed)
        randomness = Randomness(database.seed if seed is None else seed, run=database.starts)
        return randomness, database, database.seed
    if not hasattr(storage, "addresses"):
        raise TypeError(f"storage must be a path, a Storage or None, not {storage!r:.80}")
    if disk_bytes is not None:
        raise ValueError("disk_bytes is not for a storage of one's own: give either it or a storage")
    randomness = Randomness(seed)
    return randomness, storage, randomness.seed


def _address(namespace: str, key: str, env: str) -> Address:
    problem = namespace_problem(namespace) or key_problem(key)
    if problem is not None:
        raise ValueError(problem)
    return Address(namespace, key, Environment.parse(env))


def _limits(wanted: Any, documented: Limits | None) -> Limits | None:
    if isinstance(wanted, Limits):
        return wanted
    if not isinstance(wanted, bool):
        raise TypeError(f"limits must be True, False or Limits(…), not {wanted!r:.80}")
    return documented if wanted else None


def _key(seed: int) -> bytes:
    return hashlib.sha256(f"vault:{seed}".encode()).digest()[:KEY_BYTES]
