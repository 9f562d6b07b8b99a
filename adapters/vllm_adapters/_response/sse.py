"""Server-sent events out of bytes."""

from __future__ import annotations

from collections.abc import Iterator

_BOM = b"\xef\xbb\xbf"


class EventSplitter:
    """Server-sent events out of bytes that arrive in any pieces: the data of each event."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._data: list[bytes] = []
        self.said_something = True
        """Whether what was fed last held more than comments, which gateways send to keep a connection open."""

    def feed(self, received: bytes) -> Iterator[bytes]:
        """The data of every event that ``received`` completes."""
        if b"\n" not in received and b"\r" not in received and not self._holds_return:
            self._rest.append(received)  # a line of megabytes is put together once, not at each of its pieces
            self.said_something = not next(filter(None, self._rest), b":").startswith(b":")
            return
        text = b"".join([*self._rest, received])
        if b"\r" in text:
            held = b"\r" if text.endswith(b"\r") else b""  # the \n of a \r\n may still be on its way
            text = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held
        *lines, rest = text.split(b"\n")
        self._rest = [rest]
        self.said_something = any(line.strip(b"\r")[:1] not in (b"", b":") for line in (*lines, rest))
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line and self._data:
                data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                self._data = []
                if data:
                    yield data
            elif line.startswith(_BOM + b"data:"):  # gateways on .NET begin with a byte order mark
                self._data.append(line[8:])
            # Comments, `event:`, `id:` and `retry:` lines carry nothing that vLLM's clients need.

    @property
    def _holds_return(self) -> bool:
        return bool(self._rest) and self._rest[-1].endswith(b"\r")
