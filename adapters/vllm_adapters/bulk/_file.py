"""The file of a bulk job: a line that identifies the job, then one line of JSON for each item that is done.

A line is written by one append, so a process that is killed leaves at most one truncated line, the last. It is dropped
when the file is opened again.
"""

from __future__ import annotations

import json
import os
import sys
from array import array
from collections.abc import Mapping
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import Any

from vllm_adapters import errors
from vllm_adapters.bulk.types import BulkResult
from vllm_adapters.errors import VLLMError

if sys.platform != "win32":
    import fcntl

_FORMAT = 1
_ABSENT = -1


def digest(value: object) -> str:
    """Return a short hash of a JSON value, the same in every process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


class ResultFile:
    """Results on disk, appended as they come and found again by the position of their item.

    Eight bytes of memory are used for each item, whatever the size of its reply.

    Args:
        path: The file; it is made if it does not exist.
        parameters: The digest of the job's parameters.
        model: The model's name.

    Raises:
        ValueError: The file is of another job, is malformed, or is in use by another process.
    """

    def __init__(self, path: str | os.PathLike[str], *, parameters: str, model: str) -> None:
        self.path = Path(path)
        self._header = {"job": {"format": _FORMAT, "model": model, "parameters": parameters}}
        self._offsets = array("q")
        self._out = FileIO(str(self.path), "a+")
        try:
            self._lock()
            self._in = self.path.open("rb")
            self._end = self._read()
        except BaseException:
            self._out.close()
            raise

    def _lock(self) -> None:
        if sys.platform != "win32":
            try:
                fcntl.flock(self._out.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{self._name} is in use by another job. Pass another file.") from None

    @property
    def _name(self) -> str:
        return f"`file` {str(self.path)!r}"

    def _read(self) -> int:
        """Read the positions of all results, and cut a truncated last line off; return where the next line begins."""
        end = 0
        header = _line(self._header)
        for number, line in enumerate(self._in):
            if not line.endswith(b"\n"):
                if number == 0 and not header.startswith(line):
                    raise ValueError(f"{self._name} is not of a bulk job. Pass another file.")
                break
            if number == 0:
                self._check_header(line)
            else:
                self._note(self._parsed(line, number + 1).get("index"), end, number + 1)
            end += len(line)
        os.ftruncate(self._out.fileno(), end)
        if end == 0:
            end = self._append(self._header, 0)
        return end

    def _check_header(self, line: bytes) -> None:
        try:
            found = json.loads(line)["job"]
            keys = found.keys()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{self._name} is not of a bulk job. Pass another file.") from None
        own = self._header["job"]
        if different := [name for name in own if found.get(name) != own[name] or name not in keys]:
            what = " and ".join(f"`{name}`" for name in different)
            values = f": {found.get('model')!r} there, {own['model']!r} here" if different == ["model"] else ""
            raise ValueError(f"{self._name} is of another job, with another {what}{values}. Pass another file.")

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            parsed = json.loads(line)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise ValueError(f"Line {number} of {self._name} is malformed. Remove the line, or pass another file.")
        return parsed

    def _note(self, index: Any, offset: int, number: int) -> None:
        if not isinstance(index, int) or index < 0:
            raise ValueError(f"Line {number} of {self._name} has no index. Remove the line, or pass another file.")
        if index in self:
            raise ValueError(f"Line {number} of {self._name} repeats item {index}. Remove one of the two lines.")
        missing = index + 1 - len(self._offsets)
        if missing > 0:
            self._offsets.extend([_ABSENT] * missing)
        self._offsets[index] = offset

    def __contains__(self, index: int) -> bool:
        return index < len(self._offsets) and self._offsets[index] != _ABSENT

    @property
    def size(self) -> int:
        """One more than the position of the last item that is done."""
        return len(self._offsets)

    def result(self, index: int, key: str) -> BulkResult:
        """Return the result of an item that is done.

        Args:
            index: The item's position.
            key: The digest of the item now.

        Raises:
            ValueError: The item has changed.
        """
        self._in.seek(self._offsets[index])
        line = json.loads(self._in.readline())
        if line.get("key") != key:
            raise ValueError(
                f"{self._name} is of another job: item {index} was another one. Pass the same items in the same order, "
                "or another file."
            )
        error = _error_of(line["error"]) if "error" in line else None
        return BulkResult(index, line.get("id"), line.get("reply"), error, resumed=True)

    def add(self, result: BulkResult, key: str) -> None:
        """Append a result."""
        line: dict[str, Any] = {"index": result.index, "key": key}
        if result.id is not None:
            line["id"] = result.id
        if result.error is not None:
            line["error"] = _fields_of(result.error)
        else:
            line["reply"] = result.reply
        self._note(result.index, self._end, 0)
        self._end = self._append(line, self._end)

    def _append(self, line: Mapping[str, Any], at: int) -> int:
        data = _line(line)
        if (written := self._out.write(data)) != len(data):
            os.ftruncate(self._out.fileno(), at)
            raise OSError(f"{self._name} took {written} of {len(data)} bytes. Free space on the disk.")
        return at + len(data)

    def check_size(self, items: int) -> None:
        """Raise if the file has results of more items than there are.

        Raises:
            ValueError: It has.
        """
        if self.size > items:
            raise ValueError(
                f"{self._name} is of another job: it has a result of item {self.size - 1}, of {items} items. "
                "Pass the same items in the same order, or another file."
            )

    def close(self) -> None:
        """Write everything to the disk, and release the file."""
        os.fsync(self._out.fileno())
        self._in.close()
        self._out.close()


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def _fields_of(error: VLLMError) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": type(error).__name__, "reason": error.reason, "status": error.status_code}
    for name in ("hint", "address", "model", "param", "partial"):
        if value := getattr(error, name):
            fields[name] = value
    return fields


def _error_of(fields: Mapping[str, Any]) -> VLLMError:
    cls = getattr(errors, str(fields.get("type")), VLLMError)
    known = {name: fields[name] for name in ("hint", "address", "model", "param", "partial") if name in fields}
    error: VLLMError = cls(str(fields.get("reason")), **known)
    error.status_code = fields.get("status")
    return error
