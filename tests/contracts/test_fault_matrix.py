"""Every path of every room on every fault: what ``make faults`` shows as a table."""

import pytest

from fault_matrix.grid import ROOMS, TRAPS, count, run
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


@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.title)
def test_one_request_and_max_retries_more_but_none_after_a_token(room, retries):
    pytest.importorskip(room.needs)
    found = count(room.paths, retries)
    assert len(found) == sum(len(path.ways) for path in room.paths)
    assert {path for path in room.paths if path.scene.streamed} == {each.path for each in found if each.begun == 1}
    assert [f"{each.path.name}: {each.failing}, {each.begun}" for each in found if not each.passed] == []
