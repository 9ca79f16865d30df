"""The SQLite file: its tables, its statements and how a connection to it is opened.

Rows are keyed by (slot, user, key). A slot belongs to a copy (shard, version at which it was added) and is live, staging
(a snapshot being written beside the old copy), cold (a copy that was removed, kept for a while for a rescue by hand) or
garbage (being deleted bit by bit). Which slot a copy's rows are in is decided by one row of ``slots``, so a snapshot takes
the old copy's place in one transaction. Only live slots are copies: nothing reads the others.

WAL mode; synchronous NORMAL, because the log is the truth and checkpoints are made, and synced, on purpose; every page has
a checksum (the cksumvfs extension), so rot is an error and never a wrong answer. Transactions are explicit BEGIN and
COMMIT: apsw's ``with connection`` holds the interpreter's lock through the sync.
"""

# ruff: noqa: S608 - statements are put together from constants of this package only; values are always bound

from __future__ import annotations

import threading
from pathlib import Path

import apsw
import apsw.sqlite_extra

FILE_NAME = "store.sqlite"
FORMAT = 1
LIVE, STAGING, GARBAGE, COLD = 0, 1, 2, 3
CHECKSUM_VFS = "cksmvfs"
_CHECKSUM_BYTES = 8
PAGE_BYTES = 4096
"""SQLite's own default."""
ROWS_A_STATEMENT = (32, 8, 1)
"""How many rows a statement writes: as many as fit, because each statement gives the interpreter up and waits for it."""

TABLES = """
CREATE TABLE slots (
    slot INTEGER PRIMARY KEY, shard INTEGER NOT NULL, copy INTEGER NOT NULL, status INTEGER NOT NULL,
    epoch INTEGER NOT NULL, sn INTEGER NOT NULL, complete_at INTEGER NOT NULL, state BLOB NOT NULL, epochs BLOB NOT NULL
);
CREATE UNIQUE INDEX live_slots ON slots (shard, copy, status) WHERE status < 2;
CREATE TABLE rows (
    slot INTEGER NOT NULL, user TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, modified_ms INTEGER NOT NULL,
    content_type TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (slot, user, key)
) WITHOUT ROWID;
CREATE TABLE remembered (
    slot INTEGER NOT NULL, user TEXT NOT NULL, key TEXT NOT NULL, request_hash BLOB NOT NULL, answer INTEGER NOT NULL,
    sn INTEGER NOT NULL, wall_ms INTEGER NOT NULL, PRIMARY KEY (slot, user, key)
) WITHOUT ROWID;
CREATE INDEX remembered_order ON remembered (slot, sn);
"""

SLOT_OF = "(SELECT slot FROM slots WHERE shard = ?1 AND copy = ?2 AND status = 0)"
ROW = f"SELECT version, modified_ms, content_type, value FROM rows WHERE slot = {SLOT_OF} AND user = ?3 AND key = ?4"
REMEMBERED = (
    "SELECT request_hash, answer, sn, wall_ms FROM remembered "
    f"WHERE slot = {SLOT_OF} AND user = ?3 AND key = ?4 AND wall_ms >= ?5"
)
APPLIED = "SELECT epoch, sn FROM slots WHERE shard = ? AND copy = ? AND status = 0"
PAGE = (
    "SELECT user, key, version, modified_ms, content_type, value FROM rows "
    f"WHERE slot = {SLOT_OF} AND user = ?3 AND key >= ?4 AND key > ?5 ORDER BY key"
)
ROWS_AFTER = (
    "SELECT user, key, version, modified_ms, content_type, value FROM rows "
    f"WHERE slot = {SLOT_OF} AND (user, key) > (?3, ?4) ORDER BY user, key"
)
REMEMBERED_AFTER = (
    "SELECT user, key, request_hash, answer, sn, wall_ms FROM remembered "
    f"WHERE slot = {SLOT_OF} AND (user, key) > (?3, ?4) ORDER BY user, key"
)
COPIES = "SELECT shard, copy, epoch, sn, complete_at, state, epochs FROM slots WHERE status = 0 ORDER BY shard, copy"
SYNCED = "SELECT shard, copy, sn FROM slots WHERE status = 0"


def upsert(table: str, rows: int) -> str:
    """Return the statement that writes so many rows of seven columns. One step of it frees the interpreter for long."""
    return f"INSERT OR REPLACE INTO {table} VALUES " + ", ".join(["(?,?,?,?,?,?,?)"] * rows)


def advance(slots: int) -> str:
    """Return the statement that notes what so many slots have applied: (slot, epoch, sn, state, epochs) of each."""
    values = ", ".join(["(?,?,?,?,?)"] * slots)
    return (
        "UPDATE slots SET epoch = moved.column2, sn = moved.column3, state = moved.column4, epochs = moved.column5 "
        f"FROM (VALUES {values}) AS moved WHERE slots.slot = moved.column1"
    )


_loading = threading.Lock()


def load_checksums() -> None:
    """Register the checksumming file layer with SQLite, once a process."""
    with _loading:
        if CHECKSUM_VFS not in apsw.vfs_names():
            default = apsw.vfs_names()[0]
            connection = apsw.Connection(":memory:")
            apsw.sqlite_extra.load(connection, "cksumvfs")
            connection.close()
            assert default in apsw.vfs_names()


def connect(folder: Path, *, cache_kib: int, vfs: str = CHECKSUM_VFS, read_only: bool = False) -> apsw.Connection:
    """Open a connection to the store's file, making it when it is missing."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(str(folder / FILE_NAME), flags=flags, vfs=vfs, statementcachesize=200)
    connection.set_busy_timeout(10_000)
    if vfs == CHECKSUM_VFS:
        connection.reserve_bytes("main", _CHECKSUM_BYTES)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA cache_size = -{cache_kib}")
    if read_only:
        connection.execute("PRAGMA query_only = 1")
    return connection


def begin(connection: apsw.Connection, *, synced: bool = False) -> None:
    """Begin a transaction that writes; if ``synced``, its COMMIT returns when it, and all before it, is durable.

    One file has them all in their order, so one sync of that does it; no page is moved to its place for that.
    """
    # Within a transaction this cannot be changed.
    connection.execute("PRAGMA synchronous = FULL" if synced else "PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN IMMEDIATE")


def prepare(connection: apsw.Connection) -> None:
    """Make the tables when the file is new. Raises ``apsw.Error`` on a file of another format."""
    found = connection.pragma("user_version")
    if found == FORMAT:
        return
    if found != 0:
        raise apsw.Error(f"the store has format {found}, this version reads {FORMAT}")
    begin(connection)
    connection.execute(TABLES)
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")
