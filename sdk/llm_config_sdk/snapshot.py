"""Last known good: entries kept on disk, so that an application starts while every server is down.

A snapshot is one JSON file: readable, versioned, and closed by a digest. It is replaced atomically, has mode
0600, and several processes may share it: each joins what it knows with what is there, newest first. The same
format serves as a `bootstrap` file that is shipped with an application.

Secrets are left out, unless a key is given to encrypt them with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, cast

from llm_config_resilience import Entry
from llm_config_resilience.arguments import check_at_least
from llm_config_resilience.locks import new_lock
from llm_config_sdk.cache import Fetched
from llm_config_sdk.entries import ConfigEntry, Provenance, json_object
from llm_config_sdk.sealing import EncryptionKey, EntrySeal

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from llm_config_resilience import Clock


log: Final = logging.getLogger("llm_config_sdk.snapshot")

FORMAT: Final = "llm-config-sdk snapshot"
VERSION: Final = 1
WRITE_DELAY: Final = 0.2  # seconds: changes that come together are written together
_MODE: Final = 0o600
_END_OF_TIME: Final = 1e12  # seconds since the epoch: what is beyond is no time, or not in seconds
_SIZE_LIMIT: Final = 64 * 1024 * 1024  # bytes; a larger file is not one of ours

Key = tuple[str, str, str]
"""Namespace, key, environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPolicy:
    """Where the last values are kept, and when they stand in.

    Attributes:
        path: The file; left out, one per base URL in the user's cache directory.
        max_age: Seconds after which a value is not served any more; `None` for never.
        max_wait: Seconds that a first read waits for a server before the last value stands in, while the
            read goes on in the background; `None` waits the call out.
        encryption_key: A Fernet key (`cryptography.fernet.Fernet.generate_key()`): secrets are kept too,
            encrypted. Left out, they are not kept.
    """

    path: str | os.PathLike[str] | None = None
    max_age: float | None = 7 * 24 * 3600.0
    max_wait: float | None = 0.03
    encryption_key: EncryptionKey | None = None

    def __post_init__(self) -> None:
        times = {"max_age": self.max_age, "max_wait": self.max_wait}
        check_at_least(0, **{name: time for name, time in times.items() if time is not None})


def default_path(origin: str) -> Path:
    """Where a client keeps its snapshot unless told otherwise.

    Args:
        origin: The client's base URL.
    """
    name = hashlib.sha256(origin.encode()).hexdigest()[:16]
    import platformdirs  # noqa: PLC0415  # most clients have no such file

    return platformdirs.user_cache_path("llm-config-sdk") / f"{name}.json"


class _Kept(NamedTuple):
    """One line of a snapshot: an entry, or that it is gone."""

    fetched_at: float
    entry: ConfigEntry | None


class SnapshotStore:
    """The last known values, as a store of the toolkit's. Nothing in it ever raises: it reports and goes on.

    Args:
        policy: Where and how.
        origin: The base URL that the values come from; a snapshot of another one is ignored.
        bootstrap: A file of the same format, from any origin, that answers where the snapshot knows nothing.
        clock: Time; a `ManualClock` in tests.
        on_loss: Told, in a sentence, of a file that had to be ignored.

    Attributes:
        max_age: Seconds after which a value is not served any more.
        max_wait: Seconds that a first read waits for a server.

    Raises:
        InvalidRequestError: The encryption key is none.
    """

    local: ClassVar[bool] = False  # its times are the wall clock's: processes share it

    def __init__(
        self,
        policy: SnapshotPolicy | None,
        *,
        origin: str,
        bootstrap: str | os.PathLike[str] | None = None,
        clock: Clock | None = None,
        on_loss: Callable[[str], object] | None = None,
    ) -> None:
        self._on_loss = on_loss
        self._time = time.time if clock is None else clock.time
        settings = policy if policy is not None else SnapshotPolicy()
        self.max_age: float = inf if settings.max_age is None else settings.max_age
        self.max_wait: float | None = settings.max_wait
        self._origin = origin
        self._seal = EntrySeal(policy.encryption_key if policy is not None else None)
        self.path: Path | None = Path(policy.path or default_path(origin)) if policy is not None else None
        self._lock = new_lock()
        self._wake = threading.Condition(self._lock)
        self._writer: threading.Thread | None = None
        self._dirty = False
        self._closed = False
        self._kept: dict[Key, _Kept] = {}
        self._shipped: dict[Key, _Kept] = {}
        if bootstrap is not None:
            self._shipped = self._load(Path(bootstrap), origin=None)
        if self.path is not None:
            self._kept = self._load(self.path, origin=origin)

    def __len__(self) -> int:
        return len(self._kept.keys() | self._shipped.keys())

    def __repr__(self) -> str:
        return f"SnapshotStore({str(self.path) if self.path else 'bootstrap only'!r}, {len(self)} entries)"

    # --- As a store ---

    def get(self, key: Key) -> Entry | None:
        """Return the last known value, from the snapshot or else from the bootstrap file."""
        kept = self._kept.get(key)
        if kept is None:
            kept = self._shipped.get(key)
            # What was shipped has no age that counts: it answers until something better is known.
            return None if kept is None else Entry(kept.entry, self._time())
        return None if kept.entry is None else Entry(kept.entry, kept.fetched_at)

    def set(self, key: Key, entry: Entry, keep: float) -> None:
        """Keep a value, if it is one that a server has just sent."""
        del keep
        if isinstance(entry.value, Fetched):
            self.note(key, entry.value.entry)

    def note(self, key: Key, entry: ConfigEntry) -> None:
        """Keep an entry as a server has sent it; a secret only if it can be sealed."""
        if self._seal.accepts(entry):
            self._note(key, _Kept(entry.provenance.fetched_at, entry))

    def delete(self, key: Key) -> None:
        """Forget a value that is gone, here and in what other processes wrote."""
        if key in self._kept or key in self._shipped:
            self._note(key, _Kept(self._time(), None))

    def entries(self) -> list[ConfigEntry]:
        """Return every value that is known."""
        known = {**self._shipped, **self._kept}
        return [kept.entry for kept in known.values() if kept.entry is not None]

    # --- Writing ---

    def _note(self, key: Key, kept: _Kept) -> None:
        known = self._kept.get(key)
        if known is not None and known.entry == kept.entry and kept.entry is not None:
            # The same value: its age matters to readers here, and is not worth a write.
            self._kept[key] = kept
            return
        with self._lock:
            self._kept[key] = kept
            if self.path is None or self._closed:
                return
            self._dirty = True
            if self._writer is None or not self._writer.is_alive():
                # A daemon: an application that forgets to close must still be able to end.
                self._writer = threading.Thread(
                    target=self._write_behind, name="llm-config-snapshot", daemon=True
                )
                self._writer.start()
            self._wake.notify_all()

    def _write_behind(self) -> None:
        while True:
            with self._lock:
                self._wake.wait_for(lambda: self._dirty or self._closed)
                if not self._dirty:
                    return
                self._wake.wait_for(lambda: self._closed, timeout=WRITE_DELAY)
                self._dirty = False
            self.write()

    def write(self) -> None:
        """Write now, joining what this process knows with what others wrote. Reports what goes wrong."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _exclusive(self.path) as alone:
                if alone:
                    _sweep(self.path)
                for key, kept in self._load(self.path, origin=self._origin, quiet=True).items():
                    mine = self._kept.get(key)
                    if mine is None or mine.fetched_at < kept.fetched_at:
                        self._kept[key] = kept
                _replace(self.path, self._dump())
        except (
            OSError,
            ValueError,
            RecursionError,
        ) as error:  # a NUL in the path, half a character
            log.warning("the snapshot %s could not be written: %s", self.path, error)

    def close(self) -> None:
        """Write what is not written yet, and end the writer."""
        with self._lock:
            self._closed = True
            writer = self._writer
            self._wake.notify_all()
        if writer is not None and writer.is_alive() and writer is not threading.current_thread():
            writer.join()
        elif self._dirty:
            self.write()

    def _dump(self) -> bytes:
        with self._lock:
            everything = sorted(self._kept.items(), key=lambda item: item[0])
        lines: list[dict[str, Any]] = []
        for (namespace, key, environment), kept in everything:
            line: dict[str, Any] = {
                "namespace": namespace,
                "key": key,
                "environment": environment,
                "fetched_at": kept.fetched_at,
            }
            if kept.entry is not None:
                if not self._seal.accepts(kept.entry):
                    continue
                line["entry"] = self._seal.dump(kept.entry)
            lines.append(line)
        return write_document(self._origin, lines)

    # --- Reading ---

    def _load(self, path: Path, *, origin: str | None, quiet: bool = False) -> dict[Key, _Kept]:
        try:
            with path.open("rb") as file:
                raw = file.read(_SIZE_LIMIT + 1)
            lines = read_document(raw, origin=origin)
        except FileNotFoundError:
            if origin is None:
                log.warning("the bootstrap file %s does not exist", path)
            return {}
        except (OSError, ValueError, RecursionError) as error:
            if not quiet:
                log.warning("ignoring %s: %s", path, error)
                if self._on_loss is not None:
                    self._on_loss(f"the snapshot {path} had to be ignored: {error}")
            return {}
        loaded: dict[Key, _Kept] = {}
        for line in lines:
            kept = self._open(line)
            if kept is not None:
                loaded[line["namespace"], line["key"], line["environment"]] = kept
        return loaded

    def _open(self, line: dict[str, Any]) -> _Kept | None:
        body = json_object(line.get("entry"))
        fetched_at = float(line["fetched_at"])
        if body is None:
            return _Kept(fetched_at, None)
        entry = self._seal.load(body)
        if entry is None:
            return None
        mark = Provenance(source="snapshot", fetched_at=fetched_at, attempts=0)
        return _Kept(fetched_at, entry.with_provenance(mark))


class FirstReads:
    """A snapshot as reads see it: it says nothing of what a cache already holds, however old.

    Args:
        snapshot: The snapshot.
        known: Asked for a key; anything but `None` means that the cache holds it.
    """

    local: ClassVar[bool] = False

    def __init__(self, snapshot: SnapshotStore, known: Callable[[Key], object]) -> None:
        self._known = known
        self._snapshot = snapshot
        self.set: Callable[[Key, Entry, float], None] = snapshot.set
        self.delete: Callable[[Key], None] = snapshot.delete

    def get(self, key: Key) -> Entry | None:
        """Return the last known value of what the cache does not hold."""
        return None if self._known(key) is not None else self._snapshot.get(key)


# --- The file -----------------------------------------------------------------------------------


def write_document(origin: str, lines: list[dict[str, Any]]) -> bytes:
    """Write a snapshot's bytes."""
    body = {"format": FORMAT, "version": VERSION, "origin": origin, "entries": lines}
    return json.dumps({**body, "digest": _digest(body)}, ensure_ascii=False, indent=1).encode()


def read_document(raw: bytes, *, origin: str | None) -> list[dict[str, Any]]:
    """Read a snapshot's bytes.

    Args:
        raw: The bytes.
        origin: What the snapshot has to come from; `None` for a file that was shipped, from anywhere.

    Returns:
        Its lines, whose shape is checked.

    Raises:
        ValueError: It is no snapshot, is damaged, or is of another version or server. The message says which.
    """
    if len(raw) > _SIZE_LIMIT:
        raise ValueError("it is too large for a snapshot")
    try:
        text = raw.decode(json.detect_encoding(raw))
        document = json_object(json.loads(text))
        if "\\u" in text:  # which may stand for half a character: no file, cache or server could take it
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise ValueError("it is damaged: no JSON") from None
    if document is None or document.get("format") != FORMAT:
        raise ValueError("it is no snapshot of this SDK")
    if document.get("version") != VERSION:
        raise ValueError(f"it has version {document.get('version')!r}, and this SDK reads {VERSION}")
    digest = document.pop("digest", None)
    # A file that people wrote by hand, to be shipped, need not have one.
    if (digest is not None or origin is not None) and digest != _digest(document):
        raise ValueError("it is damaged: its digest does not fit")
    if origin is not None and document.get("origin") != origin:
        raise ValueError("it was made with another server")
    lines: object = document.get("entries")
    if not isinstance(lines, list):
        raise ValueError("it has no entries")  # noqa: TRY004  # a damaged file, no programming error
    return list(_checked(cast("list[object]", lines)))


def _checked(lines: list[object]) -> Iterator[dict[str, Any]]:
    for each in lines:
        line = json_object(each)
        if line is None or not _is_time(line.get("fetched_at", 0.0)):
            raise ValueError("an entry in it is damaged")
        names = [line.get(name) for name in ("namespace", "key", "environment")]
        if not all(isinstance(name, str) for name in names):
            raise ValueError("an entry in it has no name")
        yield {"fetched_at": 0.0, **line}


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < _END_OF_TIME  # NaN is not


def _digest(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def _sweep(path: Path) -> None:
    """Remove what processes left that were killed while they wrote: they hold the lock no more."""
    for left in path.parent.iterdir():
        if left.name.startswith(_temporary_prefix(path)):
            with contextlib.suppress(OSError):
                left.unlink()


def _temporary_prefix(path: Path) -> str:
    return f".{path.name}."


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of the old or all of the new, even after a crash."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_temporary_prefix(path))  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105  # a plain name, from mkstemp
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108  # as above
        raise


@contextlib.contextmanager
def _exclusive(path: Path) -> Generator[bool]:
    """Keep other processes from joining and writing at the same time; say whether that is so."""
    try:
        import fcntl  # noqa: PLC0415  # where there is none, the last writer wins
    except ImportError:
        yield False
        return
    handle = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, _MODE)
    _locks.add(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield True
    finally:
        # Closing would not do while a process that was forked meanwhile has the descriptor, too.
        fcntl.flock(handle, fcntl.LOCK_UN)
        _locks.discard(handle)
        os.close(handle)


_locks: Final[set[int]] = set()


def _let_go() -> None:
    """In a forked child, close what would hold a lock on after the parent's end."""
    for handle in _locks:
        os.close(handle)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
