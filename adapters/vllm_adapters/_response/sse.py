"""Server-sent events, parsed from bytes."""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"


class EventSplitter:
    """Splits bytes that arrive in any pieces into the data of server-sent events.

    Comments, ``event:``, ``id:`` and ``retry:`` lines are dropped: no client of vLLM needs them.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._data: list[bytes] = []
        self.only_comments = False
        """Whether the last piece had nothing but comments, which gateways send to keep a connection open."""

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the data of every event that ``piece`` completes."""
        rest = self._rest
        if piece.endswith(b"\n\n") and not (rest or self._data) and piece.startswith(b"data: "):
            event = piece[6:-2]
            if event and b"\n" not in event and b"\r" not in event:  # one whole event, as vLLM sends them
                self.only_comments = False
                return [event]
        if b"\n" not in piece and b"\r" not in piece and not (rest and rest[-1].endswith(b"\r")):
            rest.append(piece)  # a line of megabytes is joined once, not at each of its pieces
            self.only_comments = next(filter(None, rest), b":").startswith(b":")
            return []
        text = b"".join([*rest, piece]) if rest else piece
        if b"\r" in text:
            held = b"\r" if text.endswith(b"\r") else b""  # the \n of a \r\n may still be to come
            text = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held
        *lines, last = text.split(b"\n")
        self._rest = [last] if last else []
        self.only_comments = last[:1] in (b"", b":", b"\r")
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line:
                if self._data:
                    data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                    self._data = []
                    if data:
                        events.append(data)
                continue
            elif line.startswith(_BOM + b"data:"):  # gateways on .NET begin with a byte order mark
                self._data.append(line[8:].removeprefix(b" "))
            if not line.startswith(b":"):
                self.only_comments = False
        return events
