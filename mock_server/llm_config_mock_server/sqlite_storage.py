"""A sqlite database as storage: what it keeps survives a restart of the server, and its being killed.

A write is acknowledged once its commit is in the write-ahead log and on the disk, with all that
belongs to it: a change, its audit event and the reply under its idempotency key are one commit.
What the database cannot do is raised as the failure of the store that it is, so that the modules
above say it in the platform's words.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

from llm_config_sdk.contract import Environment

from .conditions import UNAVAILABLE, ComponentFailureError
from .storage import Address

if TYPE_CHECKING:
    from collections.abc import Generator, Hashable, Iterable, Sequence

    from .storage import Kind

APPLICATION_ID: Final = 0x4C434D53  # "LCMS": tells a database of ours from any other program's
SCHEMA_VERSION: Final = 2  # 1 had no documents
LOCK_WAIT_SECONDS: Final = 0.1  # our choice: the one thread that answers everybody waits here
FILE_MODE: Final = 0o600  # a database holds tokens' seed and ciphertexts: nobody else's business
_SEED_BITS: Final = 32  # as many as a drawn seed of a server without a database has

_DOCUMENTS: Final = """
    CREATE TABLE documents (
        number INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, document BLOB NOT NULL,
        UNIQUE (kind, name)
    )
"""
_SCHEMA: Final = (
    """
    CREATE TABLE records (
        namespace TEXT NOT NULL, environment TEXT NOT NULL, key TEXT NOT NULL, record BLOB NOT NULL,
        PRIMARY KEY (namespace, environment, key)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE versions (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        namespace TEXT NOT NULL, environment TEXT NOT NULL, key TEXT NOT NULL, record BLOB NOT NULL
    )
    """,
    "CREATE INDEX versions_by_address ON versions (namespace, environment, key, number)",
    _DOCUMENTS,
    "CREATE TABLE origin (seed INTEGER NOT NULL, starts INTEGER NOT NULL)",
)
_OUT_OF_MEMORY: Final = "Cannot allocate memory (os error 12)"
_READ_ONLY: Final = "Read-only file system (os error 30)"
_FULL: Final = "No space left on device (os error 28)"
_DENIED: Final = "Permission denied (os error 13)"
_BROKEN: Final = "Input/output error (os error 5)"
# Primary result codes of sqlite (https://www.sqlite.org/rescode.html): the kind of failure, and its words.
_FAILURES: Final = {
    sqlite3.SQLITE_BUSY: (UNAVAILABLE, "the database is locked"),
    sqlite3.SQLITE_LOCKED: (UNAVAILABLE, "the database is locked"),
    sqlite3.SQLITE_CANTOPEN: (UNAVAILABLE, "the database cannot be opened"),
    sqlite3.SQLITE_CORRUPT: (UNAVAILABLE, "the database is corrupt"),
    sqlite3.SQLITE_NOTADB: (UNAVAILABLE, "the file is no database"),
    sqlite3.SQLITE_FULL: ("StorageFull", _FULL),
    sqlite3.SQLITE_NOMEM: ("OutOfMemory", _OUT_OF_MEMORY),
    sqlite3.SQLITE_READONLY: ("ReadOnlyFilesystem", _READ_ONLY),
    sqlite3.SQLITE_PERM: ("PermissionDenied", _DENIED),
    sqlite3.SQLITE_AUTH: ("PermissionDenied", _DENIED),
    sqlite3.SQLITE_IOERR: ("InputOutput", _BROKEN),
}
_PRIMARY: Final = 0xFF  # the bits of an extended result code that hold the primary one


class SqliteStorage:
    """Records and documents in a sqlite database, made with mode 0600 where there is none.

    The database is opened at the first use, and again after `close`. One server at a time should
    write to it; others meet a locked database as `config.StorageError`.

    Args:
        path: The file; `-wal` and `-shm` files lie beside it while it is open.
        capacity: Bytes that the database may take, rounded down to whole pages; `None` for no bound.
        seed: The seed that a new database keeps; drawn if left out. Tokens and the vault's first key
            come from it, and so stay what they were.

    Raises:
        ValueError: The file is no database, or another program's.
        OSError: The file cannot be made or opened.
        ComponentFailureError: From every other method, where the database says no.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, capacity: int | None = None, seed: int | None = None
    ) -> None:
        """Open the database, or make it."""
        self.path: Path = Path(path)
        self._capacity = capacity
        self._lock = RLock()
        self._owner = 0
        self._connection: sqlite3.Connection | None = None
        self._opened = 0
        self._depth = 0  # of transactions within each other
        self._taken_back = 0
        self._lost: ComponentFailureError | None = None  # why the database took a whole transaction back
        # A fork's child must not touch what the parent has open (https://www.sqlite.org/howtocorrupt.html,
        # section 2.6), not even to close it.
        self._inherited: list[sqlite3.Connection] = []
        self._create()
        try:
            with self._writing() as database:
                self._prepare(database, seed)
                self.seed: int
                self.starts: int
                self.seed, self.starts = database.execute("SELECT seed, starts FROM origin").fetchone()
        except ComponentFailureError as error:
            self.close()
            if error.__cause__ is not None and _code(error.__cause__) == sqlite3.SQLITE_NOTADB:
                raise ValueError(f"{self.path} is no sqlite database") from error
            raise OSError(f"cannot open the database {self.path}: {error.message}") from error
        except ValueError:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<SqliteStorage {str(self.path)!r}>"

    # --- Transactions -----------------------------------------------------------------------------

    @property
    def generation(self) -> Hashable:
        """What changes whenever documents change otherwise than one by one."""
        ((version,),) = self._rows("PRAGMA data_version")  # changed by what others commit
        return self._opened, self._taken_back, version

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Join what is written until the block ends: one commit, or nothing where the block raises.

        A block that writes nothing costs nothing: the database's transaction begins with its first write.
        """
        with self._lock, _failures():
            is_outermost, name = self._depth == 0, f"depth_{self._depth}"
            within = self._connection is not None and self._connection.in_transaction
            if within:
                self._open().execute(f"SAVEPOINT {name}")
            self._depth += 1
            try:
                yield
                self._check_lost()
                if within:
                    self._open().execute(f"RELEASE {name}")
                elif is_outermost and self._connection is not None and self._connection.in_transaction:
                    self._connection.execute("COMMIT")
            except BaseException as error:
                self._take_back(name if within else None, error)
                raise
            finally:
                self._depth -= 1
                if is_outermost:
                    self._lost = None

    def _check_lost(self) -> None:
        if self._lost is not None:
            raise self._lost

    def _take_back(self, savepoint: str | None, error: BaseException) -> None:
        self._taken_back += 1
        if self._connection is None:
            return
        if not self._connection.in_transaction:
            # A full disk has taken everything back by itself, and what was written before this block too.
            if savepoint is not None and isinstance(error, ComponentFailureError):
                self._lost = error
            return
        with suppress(sqlite3.Error):  # a second error would hide the first
            if savepoint is None:
                self._connection.execute("ROLLBACK")
            else:
                self._connection.execute(f"ROLLBACK TO {savepoint}")
                self._connection.execute(f"RELEASE {savepoint}")

    # --- Records ----------------------------------------------------------------------------------

    def read(self, address: Address) -> bytes | None:
        """Return a live record's bytes, or `None`."""
        row = self._rows(
            "SELECT record FROM records WHERE namespace = ? AND environment = ? AND key = ?", *_key(address)
        )
        return bytes(row[0][0]) if row else None

    def write(self, address: Address, record: bytes, *, snapshot: bool) -> None:
        """Make a record live and, where asked, append it to the history; both or neither."""
        with self._writing() as database:
            database.execute(
                "INSERT INTO records VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET record = excluded.record",
                (*_key(address), record),
            )
            if snapshot:
                database.execute(
                    "INSERT INTO versions (namespace, environment, key, record) VALUES (?, ?, ?, ?)",
                    (*_key(address), record),
                )

    def remove(self, address: Address) -> bool:
        """Remove a live record, keep its history, and say whether there was one."""
        with self._writing() as database:
            removed = database.execute(
                "DELETE FROM records WHERE namespace = ? AND environment = ? AND key = ?", _key(address)
            )
            return removed.rowcount > 0

    def history(self, address: Address) -> Sequence[bytes]:
        """Return every version ever written, oldest first."""
        return [
            bytes(record)
            for (record,) in self._rows(
                "SELECT record FROM versions WHERE namespace = ? AND environment = ? AND key = ?"
                " ORDER BY number",
                *_key(address),
            )
        ]

    def keys(self, namespace: str, environment: Environment) -> Iterable[str]:
        """Return the keys of the live records of a namespace in an environment."""
        query = "SELECT key FROM records WHERE namespace = ? AND environment = ?"
        return [key for (key,) in self._rows(query, namespace, str(environment))]

    def addresses(self) -> Iterable[Address]:
        """Return the address of every live record."""
        return [
            Address(namespace, key, Environment(environment))
            for namespace, key, environment in self._rows("SELECT namespace, key, environment FROM records")
        ]

    # --- Documents --------------------------------------------------------------------------------

    def documents(self, kind: Kind) -> Iterable[tuple[str, bytes]]:
        """Return the documents of a kind with their names, in the order of their first keeping."""
        query = "SELECT name, document FROM documents WHERE kind = ? ORDER BY number"
        return [(name, bytes(document)) for name, document in self._rows(query, kind)]

    def keep(self, kind: Kind, name: str, document: bytes) -> None:
        """Keep a document, in place of any of that name."""
        with self._writing() as database:
            database.execute(
                "INSERT INTO documents (kind, name, document) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET document = excluded.document",
                (kind, name, document),
            )

    def discard(self, kind: Kind, name: str) -> None:
        """Forget a document, if there is one."""
        with self._writing() as database:
            database.execute("DELETE FROM documents WHERE kind = ? AND name = ?", (kind, name))

    # --- The whole --------------------------------------------------------------------------------

    def clear(self, *kinds: Kind) -> None:
        """Forget every record with its history, and the documents of these kinds; the seed is kept."""
        with self._writing() as database:
            database.execute("DELETE FROM records")
            database.execute("DELETE FROM versions")
            database.executemany("DELETE FROM documents WHERE kind = ?", [(kind,) for kind in kinds])
        self._taken_back += 1

    def close(self) -> None:
        """Close the database; its next use opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            if self._owner != os.getpid():
                self._inherited.append(connection)
                return
            connection.close()

    # --- The database -----------------------------------------------------------------------------

    def _create(self) -> None:
        """Make the file with its mode before sqlite does, which would ask the umask."""
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, FILE_MODE))

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._owner != os.getpid():
            self._inherited.append(self._connection)
            self._connection = None
        if self._connection is None:
            connection = sqlite3.connect(
                self.path, timeout=LOCK_WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                # What was acknowledged survives a power cut too (https://www.sqlite.org/pragma.html#pragma_synchronous).
                connection.execute("PRAGMA synchronous = FULL")
                if self._capacity is not None:
                    size = connection.execute("PRAGMA page_size").fetchone()[0]
                    connection.execute(f"PRAGMA max_page_count = {max(1, self._capacity // size)}")
            except BaseException:
                connection.close()
                raise
            self._connection, self._owner = connection, os.getpid()
            self._opened += 1
        return self._connection

    def _prepare(self, database: sqlite3.Connection, seed: int | None) -> None:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application != APPLICATION_ID:
            if application or tables:
                raise ValueError(f"{self.path} is the database of another program")
            for statement in _SCHEMA:
                database.execute(statement)
            drawn = secrets.randbits(_SEED_BITS) if seed is None else seed
            database.execute("INSERT INTO origin VALUES (?, 0)", (drawn,))
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 1:
            database.execute(_DOCUMENTS)
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            version = SCHEMA_VERSION
        if version != SCHEMA_VERSION:
            raise ValueError(f"{self.path} has format {version}, where this program knows {SCHEMA_VERSION}")
        database.execute("UPDATE origin SET starts = starts + 1")

    def _rows(self, query: str, *parameters: str) -> list[Any]:
        with self._lock, _failures():
            return self._open().execute(query, parameters).fetchall()

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """Write, within the transaction that runs or in one of its own; all of it or nothing."""
        with self.transaction(), _failures():
            self._check_lost()
            database = self._open()
            if not database.in_transaction:
                database.execute("BEGIN IMMEDIATE")
            yield database


def _key(address: Address) -> tuple[str, str, str]:
    return address.namespace, str(address.environment), address.key


def _code(error: BaseException) -> int | None:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & _PRIMARY


@contextmanager
def _failures() -> Generator[None]:
    """Say what sqlite says as the failure of the store that it is."""
    try:
        yield
    except sqlite3.Error as error:
        code = _code(error)
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_NOMEM:
            code = sqlite3.SQLITE_NOMEM
        known = None if code is None else _FAILURES.get(code)
        if known is None:
            raise  # a defect of this module
        raise ComponentFailureError("store", *known) from error
