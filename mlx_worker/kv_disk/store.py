"""KV on disk of one identity: put, get, delete, within bounds, and never an error to a caller.

Whatever the disk does, a caller gets the right bytes or None. Writes belong to one thread; `get`
may run on another beside it. [child]
"""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING, Final, TypeVar

from mlx_worker.errors import StorageError
from mlx_worker.kv_disk.access import FolderAccess
from mlx_worker.kv_disk.account import AccountBusy
from mlx_worker.kv_disk.files.index import IndexEntry, new_entry
from mlx_worker.kv_disk.files.payload import BadRecord
from mlx_worker.kv_disk.files.records import Mark, encode
from mlx_worker.kv_disk.reports import Statistics, StoreOutcome
from mlx_worker.kv_disk.space import free_bytes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from mlx_worker.kv_disk.files.keys import HasDigest
    from mlx_worker.kv_disk.files.payload import Payload
    from mlx_worker.kv_disk.files.records import Address, Kind, Record
    from mlx_worker.kv_disk.files.segments import ReadAt, WriteAt
    from mlx_worker.kv_disk.opened import OpenedFolder
    from mlx_worker.kv_disk.space import Limits

T = TypeVar("T")

SAVE_SECONDS: Final = 600.0
"""Between two saves of the index, in a process that goes on."""


class DiskStore:
    """The records of one identity below one folder."""

    def __init__(
        self,
        path: Path,
        identity: HasDigest,
        limits: Limits,
        *,
        report: Callable[[str], None],
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        free_bytes: Callable[[int], int] = free_bytes_of,
        write_at: WriteAt = os.pwritev,
        read_at: ReadAt = os.preadv,
    ) -> None:
        self._monotonic = monotonic
        self._folder = FolderAccess(
            path,
            identity,
            limits,
            report=report,
            now=now,
            monotonic=monotonic,
            free_bytes=free_bytes,
            write_at=write_at,
            read_at=read_at,
        )
        self._saved_at = monotonic()
        self._hits = self._misses = self._corrupt = 0

    # --- storing ---

    def put(self, record: Record, *, essential: bool = False) -> StoreOutcome:
        """Store a record. `essential` ones are stored even over the day's budget of bytes."""
        with self._folder.writing:
            self._folder.heal()
            opened = self._folder.opened
            if opened is None or not self._folder.availability.can_write:
                return StoreOutcome.OFF
            try:
                outcome = self._put(opened, record, essential=essential)
            except AccountBusy:
                return StoreOutcome.BUSY
            except (ValueError, OverflowError, struct.error):  # BadRecord, and what no field holds
                return StoreOutcome.REFUSED
            except (OSError, StorageError) as error:
                self._folder.availability.switch_off(error)
                return StoreOutcome.OFF
            if outcome is StoreOutcome.STORED:
                self._folder.availability.on_written()
            return outcome

    def _put(self, opened: OpenedFolder, record: Record, *, essential: bool) -> StoreOutcome:
        if opened.index.get(record.address) is not None:
            return StoreOutcome.KNOWN
        if opened.index.is_orphan(record.address.kind, record.start, record.parent):
            return StoreOutcome.ORPHAN
        data = encode(self._folder.identity.digest, record)
        opened.check_path()
        with opened.account.held():
            if not essential and self._folder.space.is_day_over(opened, len(data)):
                return StoreOutcome.DAY
            least = None if essential else record.seconds / len(data)
            if not self._folder.space.make_room(opened, len(data), least):
                return StoreOutcome.FULL
            if opened.index.is_orphan(record.address.kind, record.start, record.parent):
                return StoreOutcome.ORPHAN  # the room was made of the chunk before
            self._folder.space.append(
                opened, new_entry(record, len(data), self._folder.now()), data
            )
        return StoreOutcome.STORED

    # --- finding ---

    def contains(self, address: Address, *, apart: bool = False) -> bool:
        """Return True if a record can be read, as far as the index knows.

        A record under suspicion can be read only `apart` from others.
        """
        with self._folder.lock:
            entry = self._folder.find(address)
            return entry is not None and (apart or entry.mark is Mark.LIVE)

    def cost_of(self, address: Address) -> tuple[int, float]:
        """Return the bytes of a record, and the seconds that computing its KV took.

        Both are 0 where there is no such record.
        """
        with self._folder.lock:
            entry = self._folder.find(address)
            return (0, 0.0) if entry is None else (entry.length, entry.seconds)

    def stops_after(self, parent: bytes) -> list[int]:
        """Return where the records that follow the key `parent` end, the longest first."""
        with self._folder.lock:
            return self._folder.opened.index.stops_after(parent) if self._folder.opened else []

    def get(self, address: Address, *, apart: bool = False) -> Payload | None:
        """Return a record's payload, None where there is none that is right.

        A record under suspicion is read only `apart` from others.
        """
        with self._folder.lock:
            entry, opened = self._folder.find(address), self._folder.opened
            if (
                entry is None
                or opened is None
                or not self._folder.availability.can_read
                or (entry.mark is not Mark.LIVE and not apart)
            ):
                self._misses += 1
                return None
        if entry.mark is Mark.SUSPECT and not self._folder.set_mark(entry, Mark.TRIED):
            return None
        payload = self._load(opened, entry, _payload)
        with self._folder.lock:
            if payload is None:
                self._misses += 1
            else:
                self._hits += 1
                opened.index.use(entry, self._folder.now())
        return payload

    def use(self, address: Address) -> bool:
        """Return True if a record can be read, and count a use of the record."""
        with self._folder.lock:
            entry, opened = self._folder.find(address), self._folder.opened
            if entry is None or opened is None or entry.mark is not Mark.LIVE:
                return False
            opened.index.use(entry, self._folder.now())
            return True

    def load_all(self, kind: Kind, parse: Callable[[Address, Payload], T]) -> Iterator[T]:
        """Yield what `parse` makes of each record of a kind, that used last first.

        No uses are counted. A record for which `parse` raises BadRecord is deleted.
        """
        with self._folder.lock:
            opened = self._folder.opened
            entries = (
                [entry for entry in opened.index if entry.address.kind is kind] if opened else []
            )
        entries.sort(key=lambda entry: (entry.used_at, entry.segment, entry.offset), reverse=True)
        for entry in entries:
            if (
                opened is None
                or opened is not self._folder.opened
                or not self._folder.availability.can_read
            ):
                return
            if entry.mark is Mark.LIVE:
                parsed = self._load(opened, entry, parse)
                if parsed is not None:
                    yield parsed

    def _load(
        self, opened: OpenedFolder, entry: IndexEntry, parse: Callable[[Address, Payload], T]
    ) -> T | None:
        """Read a record; one that is not right is deleted."""
        try:
            return parse(entry.address, opened.segments.load(entry))
        except (BadRecord, StorageError, FileNotFoundError) as error:
            with self._folder.lock:
                if (
                    opened is not self._folder.opened
                    or opened.index.get(entry.address) is not entry
                ):
                    return None  # evicted meanwhile
                self._corrupt += 1
                if not isinstance(error, BadRecord):
                    self._folder.space.forget_segment(opened, entry.segment)
                    return None
            self._folder.delete(entry)
            return None
        except OSError as error:
            if opened is self._folder.opened:
                self._folder.availability.switch_off(error)
            return None

    # --- suspicion ---

    def suspect(self, addresses: Iterable[Address]) -> None:
        """Set records aside that a child read shortly before its death; delete those tried."""
        self._folder.suspect(addresses)

    def absolve(self, addresses: Iterable[Address]) -> None:
        """Use records again that were tried without a crash."""
        for address in addresses:
            entry = self._folder.find(address)
            if entry is not None and entry.mark is Mark.TRIED:
                self._folder.set_mark(entry, Mark.LIVE)

    # --- removing ---

    def delete(self, address: Address) -> None:
        """Delete a record."""
        entry = self._folder.find(address)
        if entry is not None:
            self._folder.delete(entry)

    def clear(self) -> bool:
        """Delete everything of this identity that is open here; return False if the disk failed."""
        with self._folder.writing, self._folder.guard():
            if self._folder.opened is None:
                return True
            self._folder.opened.remove_index()
            for number in list(self._folder.opened.states):
                self._folder.space.remove_segment(self._folder.opened, number)
            return True
        return False

    def verify(self) -> tuple[int, int]:
        """Read every record; delete those that are not right. Return how many were, were not."""
        with self._folder.lock:
            opened = self._folder.opened
            entries = list(opened.index) if opened else []
        if opened is None:
            return 0, 0
        right = sum(self._load(opened, entry, _payload) is not None for entry in entries)
        return right, len(entries) - right

    # --- from time to time ---

    def maintain(self) -> None:
        """Try a disk that failed, keep the volume's free bytes, and save the index at times."""
        with self._folder.writing:
            self._folder.heal()
            with self._folder.guard():
                if self._folder.opened is None or not self._folder.availability.can_write:
                    return
                self._folder.opened.check_path()
                with self._folder.opened.account.held():
                    self._folder.space.make_room(self._folder.opened, 0, None)
                    self._folder.space.yield_room(self._folder.opened)
                    self._folder.space.measure(self._folder.opened)
                    if self._folder.availability.reason and self._folder.space.try_write(
                        self._folder.opened
                    ):
                        self._folder.availability.on_written()
                if self._monotonic() - self._saved_at >= SAVE_SECONDS:
                    self._saved_at = self._monotonic()
                    self._folder.save(self._folder.opened)

    def close(self) -> None:
        """Save the index and release the folder."""
        with self._folder.writing:
            with self._folder.guard():
                if self._folder.opened is not None and self._folder.availability.can_write:
                    self._folder.save(self._folder.opened)
            self._folder.release()

    @property
    def is_writable(self) -> bool:
        """True if records can be stored, as far as is known; any thread, without a wait."""
        return self._folder.availability.can_write

    @property
    def statistics(self) -> Statistics:
        """Return the counts, on any thread; the folder's bytes are those measured last."""
        with self._folder.lock:
            opened = self._folder.opened
            return Statistics(
                records=len(opened.index) if opened is not None else 0,
                nbytes=opened.index.nbytes if opened is not None else 0,
                total_bytes=self._folder.space.total_bytes,
                written_today=self._folder.space.written_today,
                hits=self._hits,
                misses=self._misses,
                corrupt=self._corrupt,
                evicted_segments=self._folder.space.evicted_segments,
                quarantined=opened.index.set_aside if opened is not None else 0,
                off=self._folder.availability.reason,
            )


def _payload(_: Address, payload: Payload) -> Payload:
    return payload
