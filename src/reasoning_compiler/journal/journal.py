"""Writing a session's journal: what an append returned for survives a kill of the process."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reasoning_compiler.core.crash_markers import Crash
from reasoning_compiler.core.errors import JournalError, UsageError
from reasoning_compiler.journal.folder import ENVIRONMENT_FILE, JOURNAL_FILE, check_new, remove_run
from reasoning_compiler.journal.format import Header, encode, header_line, whole_size
from reasoning_compiler.journal.reading import read_session
from reasoning_compiler.journal.task_journal import Event, TaskJournal
from reasoning_compiler.proposer.llm.budget import Spending

_SYNC_SECS_PER_EVENT = 1e-3
_NOT_WRITABLE = (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)
_NOT_WRITABLE_CODES = (errno.EROFS, errno.ENAMETOOLONG)


class Journal:
    """An open journal, the only writer of its run folder. Make one with `create` or `resume`, and close it.

    Each method appends one event of the session, and `task` gives what appends those of a task. All return when the
    operating system has the event, so a killed process loses nothing. Against power loss the journal also syncs to the
    disk, as often as an average of 1 ms an event pays for, before each call to a language model and whenever a task
    finishes. Safe to use from several threads.

    Every append raises JournalError when the disk is full or fails. What was written before stays readable,
    and appending may be tried again.
    """

    def __init__(self, folder: Path, fd: int, *, size_bytes: int, elapsed_secs: float) -> None:
        self.folder = folder
        self._path = folder / JOURNAL_FILE
        self._fd = fd
        self._size_bytes = size_bytes
        self._is_torn = False
        self._start_secs = time.monotonic() - elapsed_secs
        self._sync_credit_secs = 0.0
        self._mutex = threading.Lock()

    @classmethod
    def create(
        cls, folder: str | os.PathLike[str], headers: Sequence[Header], *, files: Mapping[str, str] | None = None
    ) -> Journal:
        """Returns the journal of a new session, whose folder is made if need be.

        Args:
            folder: the run folder.
            headers: what its tasks are of, one at least.
            files: other texts to keep in the folder, by name; they are there before there is a run.

        Raises:
            UsageError: the folder holds a run already, also one just being started, or anything else, or it is not
                writable.
            JournalError: the disk is full or fails; what was written is removed again.
        """
        folder = Path(folder)
        path = folder / JOURNAL_FILE
        line = header_line(headers)
        with _as_our_errors(folder, path):
            if not path.exists():  # else nothing is made here, and whoever may be writing it comes first
                check_new(folder)
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _lock(fd, folder)
            with _as_our_errors(folder, path):
                check_new(folder)
        except BaseException:
            os.close(fd)
            raise
        try:
            with _as_our_errors(folder, path):
                os.ftruncate(fd, 0)
                text = json.dumps(line, indent=2, allow_nan=False)
                (folder / ENVIRONMENT_FILE).write_text(text + "\n", encoding="ascii")
                for name, content in (files or {}).items():
                    (folder / name).write_text(content, encoding="utf-8")
            journal = cls(folder, fd, size_bytes=0, elapsed_secs=0.0)
            journal.append([("run", line)], sync=True)
            with _as_our_errors(folder, path):
                _sync_folder(folder)
        except BaseException:
            with suppress(OSError):
                remove_run(folder)
            os.close(fd)
            raise
        return journal

    @classmethod
    def resume(cls, folder: str | os.PathLike[str]) -> Journal:
        """Returns the journal of a run that was begun before, without what was torn at its end.

        Time goes on where the run stopped: the pause does not count.

        Raises:
            UsageError: the folder holds no run, another process is writing it, or it is not writable.
            JournalError: the journal is damaged other than at its end, or the disk fails.
        """
        folder = Path(folder)
        path = folder / JOURNAL_FILE
        read_session(folder)  # says what is wrong with a folder or journal before anything is opened for writing
        with _as_our_errors(folder, path):
            fd = os.open(path, os.O_RDWR | os.O_APPEND)
        try:
            _lock(fd, folder)
            session = read_session(folder)  # again: before the lock, another process may have been appending
            with _as_our_errors(folder, path):
                size_bytes = whole_size(path.read_bytes())
                os.ftruncate(fd, size_bytes)
        except BaseException:
            os.close(fd)
            raise
        return cls(folder, fd, size_bytes=size_bytes, elapsed_secs=session.elapsed_secs)

    @property
    def elapsed_secs(self) -> float:
        """Seconds that the run has been going, pauses between its processes left out."""
        return time.monotonic() - self._start_secs

    def task(self, name: str) -> TaskJournal:
        """Returns what appends the events of a task, by the task's name in the header."""
        return TaskJournal(self, name)

    def stages(self, secs: dict[str, float]) -> None:
        """Appends seconds by stage (propose, apply, predict, build, run, wait); all that are told add up."""
        self.append([("stages", {"secs": secs})])

    def model(self, stats: dict[str, Any], *, notices: Sequence[str] = ()) -> None:
        """Appends what the language model did for this process's part of the session; of several, all count.

        Args:
            stats: its calls, tokens, USD, latencies and rejections, JSON values only.
            notices: what the user was told of it.
        """
        self.append([("model", {"stats": stats, "notices": list(notices)})])

    def reserved(self, call: int, most: Spending) -> None:
        """Appends, and syncs, that a call to a language model may begin, and what it may cost at most."""
        self.append([("reserved", {"call": call, "most": asdict(most)})], sync=True)

    def settled(self, call: int, spent: Spending) -> None:
        """Appends what a call did cost, in the place of what was reserved for it; call 0 was never reserved."""
        self.append([("settled", {"call": call, "spent": asdict(spent)})])

    def resumed(self, config: dict[str, Any]) -> None:
        """Appends that the run goes on with other settings, all of which are given, JSON values only."""
        self.append([("resumed", {"config": config})])

    def crashed(self, crash: Crash) -> None:
        """Appends, in another process than the one that crashed, how that one ended and over what; and syncs."""
        self.append([("crashed", crash.to_json())], sync=True)

    def close(self) -> None:
        """Gives the run folder free for the next writer; may be called twice."""
        with self._mutex:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, events: Sequence[Event], *, sync: bool = False) -> None:
        """Appends events that happened together: all of them, or none.

        Args:
            events: in order.
            sync: whether to return only when the disk has them.
        """
        with self._mutex, _as_our_errors(self.folder, self._path, is_begun=self._size_bytes > 0):
            if self._fd < 0:
                raise JournalError(f"`{self._path}` was closed; open it again with `Journal.resume`")
            at_secs, left = self.elapsed_secs, len(events)
            lines = b""
            for event, fields in events:
                left -= 1
                lines += encode(event, at_secs, fields | ({"more": True} if left else {}))
            if self._is_torn:
                os.ftruncate(self._fd, self._size_bytes)
            # Until all is out and counted, a full disk or a Ctrl-C leaves a torn end behind.
            self._is_torn = True
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            self._size_bytes += len(lines)
            self._is_torn = False
            self._sync(force=sync)

    def _sync(self, *, force: bool) -> None:
        """Syncs when the events so far have paid for the syncs so far: slow disks are synced less often."""
        self._sync_credit_secs += _SYNC_SECS_PER_EVENT
        if force or self._sync_credit_secs > 0:
            begin_secs = time.perf_counter()
            os.fsync(self._fd)
            self._sync_credit_secs -= time.perf_counter() - begin_secs


def require_free(folder: str | os.PathLike[str]) -> None:
    """Returns if a run can be begun in a folder, as far as can be said without writing.

    Raises:
        UsageError: the folder holds a run or anything else already, or it is not writable.
    """
    folder = Path(folder)
    with _as_our_errors(folder, folder / JOURNAL_FILE):
        check_new(folder)
        place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _lock(fd: int, folder: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"`{folder}` is being written by another process; wait for it, or end it") from None
    except OSError:
        # Some network file systems have no locks. To work without the guard beats not to work there at all.
        return


def _sync_folder(folder: Path) -> None:
    """Makes the new file's name as durable as its content."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _as_our_errors(folder: Path, path: Path, *, is_begun: bool = False) -> Iterator[None]:
    """Turns what the operating system says into one line; `is_begun` where there is a run to go on with."""
    rest = f"; what was written before is intact, go on with `reasonc resume {folder}`" if is_begun else ""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise JournalError(f"`{path}`: the disk is full, free some space{rest}") from error
        if isinstance(error, _NOT_WRITABLE) or error.errno in _NOT_WRITABLE_CODES:
            raise UsageError(
                f"`{folder}` is not writable ({error.strerror}); allow writing or choose another folder"
            ) from error
        raise JournalError(f"`{path}` could not be written ({error.strerror}){rest}") from error
