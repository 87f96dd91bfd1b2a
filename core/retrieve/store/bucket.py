"""Where a Lance table is, in a bucket of object storage: S3, or whatever speaks its protocol.

Addresses are ``s3://BUCKET/PATH``. Who may read it and where the server is, Lance takes from the environment, as all
tools of S3 do: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``, ``AWS_PROFILE``, ``AWS_ENDPOINT_URL``.

There are no locks of files in a bucket. The right to write is a row of a second table, ``writer``, beside that of the
vectors: taken, prolonged and given back by updates that name what they replace, of which Lance lets one succeed. It
ends after ``LEASE`` unless it is prolonged, so that a writer that died stops nobody for long.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
import uuid
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from ...errors import InputError, UsageError
from .lance_home import database, sound_state, translated
from .lance_table import TABLE

SCHEME = "s3://"
WRITER = "writer"
LEASE = 900.0
"""Seconds after which the right to write ends unless it is prolonged, which every change does in its second half."""
POLL_SECONDS = 0.5
PATIENCE = {"connect_timeout": "10s", "client_max_retries": "3", "client_retry_timeout": "30"}
"""Lance tries for three minutes by default: too long to find out that an address is wrong."""
_NO_CREDENTIALS = re.compile("credential", re.IGNORECASE)
_DENIED = re.compile(
    r"\b(AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|AuthorizationHeaderMalformed)\b"
    r"|status: (401|403)|\b(PermissionDenied|Unauthenticated)\b"
)
_SILENT = re.compile("kind: (Connect|Timeout|Request)|connect error|dns error|timed? ?out|Connection refused", re.I)
_CONFLICT = re.compile("conflict|concurrent", re.IGNORECASE)


def checked_address(text: str) -> str:
    """An address of a table in a bucket. Raises ``UsageError`` for anything else."""
    parts = urlsplit(text)
    path = parts.path.strip("/")
    if not text.startswith(SCHEME) or not parts.netloc or not path or parts.query or parts.fragment or "@" in text:
        raise UsageError(f"{text}: write s3://BUCKET/PATH")
    return f"{SCHEME}{parts.netloc}/{path}"


class BucketHome:
    """A path in a bucket. See ``LanceHome``.

    Parameters
    ----------
    address : str
        ``s3://BUCKET/PATH``
    lock_timeout : float
        How long a change waits for another writer, in s.
    """

    def __init__(self, address: str, lock_timeout: float) -> None:
        self.place = checked_address(address)
        self.lock = Lease(self, lock_timeout)

    def connect(self) -> Any:
        """See ``LanceHome``; the same one each time."""
        return self._database

    @cached_property
    def _database(self) -> Any:
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
        plain = {"allow_http": "true"} if endpoint.startswith("http://") else {}  # as the user wrote it
        with self.in_our_words():
            return database(self.place, storage_options=PATIENCE | plain)

    def in_our_words(self) -> contextlib.AbstractContextManager[None]:
        """What cannot be reached is neither empty nor damaged: each is said in its own words."""
        return translated(self._told)

    def _told(self, said: str) -> Exception:
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or "AWS"
        if f"'{TABLE}' was not found" in said:
            return InputError(self.place, "no such index", "Make one: attn retrieve index")
        if "NoSuchBucket" in said:
            return InputError(self.place, f"{endpoint} has no such bucket", "Make it, or name another one")
        if code := _DENIED.search(said):
            fix = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do there"
            return InputError(self.place, f"{endpoint} denies access ({code[0]})", fix)
        if _NO_CREDENTIALS.search(said):
            fix = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            return InputError(self.place, "no credentials for object storage were found", fix)
        if _SILENT.search(said):
            fix = "Check AWS_ENDPOINT_URL, AWS_REGION and the network; what is stored there is as it was"
            return InputError(self.place, f"{endpoint} does not answer", fix)
        if _CONFLICT.search(said):
            return UsageError(f"{self.place}: another process wrote to this index at the same moment. Start again.")
        return InputError(self.place, f"Lance: {said[:300]}", "Try again, or build the index again: --rebuild")

    def check(self, version: int) -> None:
        """A bucket loses no files: there is nothing to compare with."""

    def read_state(self) -> dict[str, Any]:
        """See ``LanceHome``."""
        try:
            row = self.lock.row()
            return sound_state(json.loads(row["notes"])) if row else {}
        except (ValueError, TypeError, RecursionError):
            return {}

    def write_state(self, state: dict[str, Any]) -> None:
        """See ``LanceHome``."""
        self.lock.change({"notes": json.dumps(state)})

    def closing(self, version: int) -> None:
        """There is nothing to note."""

    def tidy(self) -> None:
        """Every change of the right to write is a version."""
        self.lock.tidy()

    def sizes(self, table: Any) -> dict[str, int]:
        """The data of the table; what else is in the bucket is not listed."""
        return {"bytes": int(table.stats()["total_bytes"])}

    def exists(self) -> bool:
        """Whether there is an index. Raises ``InputError`` where that cannot be known."""
        with self.in_our_words():
            return TABLE in self.connect().list_tables().tables

    def version(self) -> int:
        """Of the newest state of the table. Raises ``InputError`` where there is none, or it cannot be known."""
        with self.in_our_words():
            return int(self.connect().open_table(TABLE).version)

    def clear(self) -> None:
        """Remove the index, if there is one. Raises ``UsageError`` if another process writes to it."""
        self.lock.acquire()
        try:
            with self.in_our_words():
                self.connect().drop_table(TABLE, ignore_missing=True)
            self.write_state({})
        finally:
            self.lock.release()


class Lease:
    """See the module, and ``WriteRight``.

    Parameters
    ----------
    home : BucketHome
    timeout : float
        How long to wait for another writer, in s.
    """

    def __init__(self, home: BucketHome, timeout: float) -> None:
        self.home, self.timeout = home, timeout
        self._token, self._ends = "", 0.0

    @property
    def held(self) -> bool:
        """Whether the right to write was ours when we last looked."""
        return bool(self._token)

    @cached_property
    def _table(self) -> Any:
        """The table of one row; made where there is none yet."""
        import pyarrow as pa

        schema = pa.schema(
            [("holder", pa.string()), ("who", pa.string()), ("ends", pa.float64()), ("notes", pa.string())]
        )
        free = [{"holder": "", "who": "", "ends": 0.0, "notes": "{}"}]
        return self.home.connect().create_table(WRITER, pa.Table.from_pylist(free, schema), exist_ok=True)

    def row(self) -> dict[str, Any] | None:
        """The row as it is now; None where nobody has ever written."""
        with self.home.in_our_words():
            database = self.home.connect()
            if "_table" not in vars(self) and WRITER not in database.list_tables().tables:
                return None
            self._table.checkout_latest()
            rows: list[dict[str, Any]] = self._table.to_arrow().to_pylist()
        return rows[0] if rows else None

    def acquire(self) -> bool:
        """See ``WriteRight``; what is ours is prolonged."""
        if self.held:
            if time.time() > self._ends - LEASE / 2:
                ends = time.time() + LEASE
                self.change({"ends": ends})
                self._ends = ends
            return False
        with self.home.in_our_words():
            _ = self._table
        until = time.monotonic() + self.timeout
        while True:
            row = self.row() or {"holder": "", "who": "?", "ends": 0.0}
            if not row["holder"] or row["ends"] < time.time():
                token, ends = uuid.uuid4().hex, time.time() + LEASE
                who = f"process {os.getpid()} of {socket.gethostname()}"
                if self._swap(row["holder"], {"holder": token, "who": who, "ends": ends}, ends=row["ends"]):
                    self._token, self._ends = token, ends
                    return True
            if time.monotonic() > until:
                raise UsageError(self._refusal(row))
            time.sleep(min(POLL_SECONDS, self.timeout))

    def change(self, values: dict[str, Any]) -> None:
        """Set columns of the row. Raises ``UsageError`` if the right to write went to somebody else meanwhile."""
        if not self._swap(self._token, values):
            self._token = ""
            raise UsageError(
                f"{self.home.place}: this process wrote nothing for {LEASE / 60:g} minutes, and another one took over. "
                "Start again."
            )

    def release(self) -> None:
        """See ``WriteRight``."""
        if self.held:
            token, self._token = self._token, ""
            with contextlib.suppress(InputError, UsageError):  # it ends by itself
                self._swap(token, {"holder": "", "who": "", "ends": 0.0})

    def tidy(self) -> None:
        """Remove versions of the row that nobody reads any more."""
        with self.home.in_our_words():
            self._table.optimize(cleanup_older_than=timedelta(minutes=5))

    def _swap(self, holder: str, values: dict[str, Any], ends: float | None = None) -> bool:
        """Set columns if the row still names ``holder`` (and ``ends``); whether it did."""
        where = f"holder = '{holder}'" + ("" if ends is None else f" AND ends = {ends!r}")
        try:
            with self.home.in_our_words():
                self._table.checkout_latest()
                return bool(self._table.update(where=where, values=values).rows_updated)
        except UsageError:  # another one did the same at the same moment, and was first
            return False

    def _refusal(self, row: dict[str, Any]) -> str:
        ends = datetime.fromtimestamp(row["ends"], UTC).strftime("%H:%M:%S UTC")
        return (
            f"{self.home.place}: {row['who'] or '?'} is writing to this index (waited {self.timeout:g} s). Wait until "
            f"it is done; if it has died, its right to write ends at {ends}. Searching is possible meanwhile."
        )
