"""A bounded store in a file, for the processes of one machine."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from llm_config_resilience.arguments import check_at_least, check_count
from llm_config_resilience.context import current
from llm_config_resilience.locks import new_lock
from llm_config_resilience.stores.codec import Codec, JsonCodec, asked_in_async, key_text
from llm_config_resilience.stores.store import Entry

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Generator

T = TypeVar("T")

_log = logging.getLogger("llm_config_resilience")

#: Entries kept unless told otherwise.
_MAX_ENTRIES: Final = 10_000
#: Seconds to wait for another process or thread: some hundred times what a write takes.
_TIMEOUT: Final = 0.25
#: Seconds between two looks at a lock that another process holds while it opens the file.
_LOOK_AGAIN: Final = 0.005
#: Marks the file as ours: "LCRc", in the header's field for it.
_APPLICATION_ID: Final = 0x4C435263
#: The layout of the table. A file with another one is emptied.
_LAYOUT: Final = 1
#: For the owner alone: configuration may be nobody else's business.
_FILE_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700

_CREATE: Final = (
    "CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, stored_at REAL NOT NULL,"
    " expires_at REAL NOT NULL)"
)
_GET: Final = "SELECT value, stored_at FROM entries WHERE key = ?"
_SET: Final = (
    "INSERT INTO entries (key, value, stored_at, expires_at) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE"
    " SET value = excluded.value, stored_at = excluded.stored_at, expires_at = excluded.expires_at"
)
_COUNT: Final = "SELECT count(*) FROM entries"
_DELETE: Final = "DELETE FROM entries WHERE key = ?"
_DELETE_EXPIRED: Final = "DELETE FROM entries WHERE expires_at <= ?"
_DELETE_OLDEST: Final = (
    "DELETE FROM entries WHERE key IN (SELECT key FROM entries ORDER BY stored_at LIMIT ?)"
)
_CLEAR: Final = "DELETE FROM entries"


class SqliteStore:
    """Keeps entries in a file that survives crashes and may be shared by processes of one machine.

    Called by a pipeline's async call it works in a worker thread, as a file may be slow or locked; everywhere
    else it works, and blocks, where it is called. The wait for a lock is bounded by `timeout`; what takes
    longer raises, and a cache goes on without the store.

    The file is in WAL mode with `synchronous=NORMAL`: nothing that was stored is lost when a process dies,
    and after a power cut the last entries may be missing but the file is sound, which is enough for a cache
    and spares it a disk flush a write. A file that is found damaged is moved aside to `<name>.corrupt`, with
    a warning in the log and a `"cache_failed"` event, and a new one is begun. It is readable by its owner
    only. When there are too many entries, those past their time go first, then those stored longest ago.

    Keys are strings, numbers, booleans, bytes, `None` and tuples of them.

    Args:
        path: The file. Its directory is made if need be. Not on a network file system.
        max_entries: Entries kept at most.
        codec: Writes values down; `JsonCodec()` unless given.
        timeout: Seconds to wait for others at most.
    """

    local: ClassVar[bool] = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_entries: int = _MAX_ENTRIES,
        codec: Codec | None = None,
        timeout: float = _TIMEOUT,
    ) -> None:
        check_count(1, max_entries=max_entries)
        check_at_least(0, timeout=timeout)
        self._path = Path(path)
        self._max_entries = max_entries
        self._codec: Codec = JsonCodec() if codec is None else codec
        self._timeout = timeout
        self._lock = new_lock()
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        self._pid = 0
        #: Connections of a parent process: of no use here, and not to be closed here either.
        self._inherited: list[sqlite3.Connection] = []

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._path)!r})"

    def __len__(self) -> int:
        return self._work(self._count)

    def __bool__(self) -> bool:
        return True

    def get(self, key: Any) -> Any:
        """Return the `Entry` of a key, or `None`; in async code an awaitable of it."""
        return self._ask(self._read, key_text(key))

    def set(self, key: Any, entry: Entry, keep: float) -> Any:
        """Keep an entry for `keep` seconds, or for less if there are too many; in async code an awaitable."""
        return self._ask(self._write, key_text(key), entry, keep)

    def delete(self, key: Any) -> Any:
        """Forget a key; in async code an awaitable."""
        return self._ask(self._execute, _DELETE, (key_text(key),))

    def clear(self) -> Any:
        """Forget everything; in async code an awaitable."""
        return self._ask(self._execute, _CLEAR, ())

    def close(self) -> None:
        """Close the file. Asked again, the store opens it anew."""
        with self._locked():
            self._disconnect()

    def _ask(self, fn: Callable[..., T], *args: Any) -> Any:
        if not asked_in_async():
            return fn(*args)
        from anyio import to_thread  # noqa: PLC0415 - sync users never need it

        return to_thread.run_sync(fn, *args)

    def _read(self, key: str) -> Entry | None:
        row: tuple[bytes, float] | None = self._work(lambda db: db.execute(_GET, (key,)).fetchone())
        return None if row is None else Entry(self._codec.decode(row[0]), row[1])

    def _write(self, key: str, entry: Entry, keep: float) -> None:
        value = self._codec.encode(entry.value)

        def work(db: sqlite3.Connection) -> None:
            with db:
                db.execute("BEGIN IMMEDIATE")
                db.execute(_SET, (key, value, entry.stored_at, entry.stored_at + keep))
                if self._count(db) > self._max_entries:
                    db.execute(_DELETE_EXPIRED, (entry.stored_at,))
                    db.execute(_DELETE_OLDEST, (max(0, self._count(db) - self._max_entries),))

        self._work(work)

    def _execute(self, statement: str, values: tuple[Any, ...]) -> None:
        self._work(lambda db: db.execute(statement, values))

    def _count(self, db: sqlite3.Connection) -> int:
        count: int = db.execute(_COUNT).fetchone()[0]
        return count

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something with the file; if it turns out damaged, with a new one."""
        import sqlite3  # noqa: PLC0415 - few need it, and all would wait for it

        with self._locked():
            try:
                return work(self._connect())
            except sqlite3.DatabaseError as error:
                if error.sqlite_errorcode not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                    raise
                self._replace(error)
            return work(self._connect())

    @contextmanager
    def _locked(self) -> Generator[None]:
        if not self._lock.acquire(timeout=self._timeout):
            raise TimeoutError(f"{self!r} was busy for {self._timeout:g} s")
        try:
            yield
        finally:
            self._lock.release()

    def _connect(self) -> sqlite3.Connection:
        """Return the connection to the file that is there now."""
        import sqlite3  # noqa: PLC0415 - as above

        if self._pid != os.getpid():
            if self._db is not None:
                self._inherited.append(self._db)
            self._db, self._pid = None, os.getpid()
        if self._db is not None and self._inode == self._inode_now():
            return self._db
        self._path.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        with self._alone():
            self._disconnect()
            self._make_private()
            db = sqlite3.connect(
                self._path, timeout=self._timeout, isolation_level=None, check_same_thread=False
            )
            self._db, self._inode = db, self._inode_now()
            try:
                self._prepare(db)
            except BaseException:
                self._disconnect()
                raise
            return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA trusted_schema = OFF")
        (marked,) = db.execute("PRAGMA application_id").fetchone()
        (layout,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if marked != _APPLICATION_ID and (marked or tables):
            raise ValueError(f"{self._path} is a database of something else")
        db.execute("PRAGMA journal_mode = WAL")
        if layout == _LAYOUT:
            return
        with db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("DROP TABLE IF EXISTS entries")
            db.execute(_CREATE)
            db.execute("CREATE INDEX by_age ON entries (stored_at)")
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {_LAYOUT}")

    def _replace(self, error: sqlite3.DatabaseError) -> None:
        aside = self._path.with_name(self._path.name + ".corrupt")
        with self._alone():
            damaged = self._inode
            self._disconnect()
            if self._inode_now() == damaged:  # else another process was quicker
                self._path.replace(aside)
                for suffix in ("-wal", "-shm"):
                    self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        _log.warning("%s is damaged (%s); moved to %s", self._path, error, aside)
        context = current()
        if context is not None:
            context.emit("cache_failed", error=error, details={"moved_to": str(aside)})

    def _make_private(self) -> None:
        # Opening a file that is in use and closing it again would drop the locks SQLite holds on it.
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _FILE_MODE))
        if self._path.stat().st_mode & 0o777 != _FILE_MODE:
            self._path.chmod(_FILE_MODE)

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Keep other processes from opening or replacing the file at the same time."""
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            end = time.monotonic() + self._timeout
            while True:
                try:
                    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() >= end:
                        held = f"{self._path.parent} was locked for {self._timeout:g} s"
                        raise TimeoutError(held) from None
                    time.sleep(_LOOK_AGAIN)
                else:
                    break
            yield
        finally:
            os.close(directory)

    def _inode_now(self) -> int:
        try:
            return self._path.stat().st_ino
        except FileNotFoundError:
            return -1

    def _disconnect(self) -> None:
        if self._db is not None:
            db, self._db = self._db, None
            with suppress(db.Error):
                db.close()
