"""Every path of every room on every fault: what ``make faults`` shows as a table."""

import pytest

from fault_matrix.grid import ROOMS, TRAPS, run
from fault_matrix.rows import FAULTS


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.title)
def test_right_or_a_typed_error_in_time(room, monkeypatch):
    pytest.importorskip(room.needs)
    for name, value in TRAPS.items():
        monkeypatch.setenv(name, value)
    cells = run(room.paths, FAULTS)
    wrong = [
        f"{path.name}, {fault.name}: {cell.text}\n{cell.note}"
        for (fault, path), ways in cells.items()
        for cell in ways
        if not cell.passed
    ]
    assert not wrong, "\n\n".join(wrong)
