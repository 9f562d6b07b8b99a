"""Every room does every job it has, as the tour asks it."""

from __future__ import annotations

import pytest

from vllm_adapters._demo.jobs import JOBS, Job
from vllm_adapters._demo.servers import Place
from vllm_adapters._demo.show import ROOMS, Room, visit

CHAT = [job for job in JOBS if job.task == "chat"]
POOLING = [job for job in JOBS if job.task != "chat"]


def id_of(row_or_column: Job | Room) -> str:
    return row_or_column.title.replace(" ", "-")


def check(room: Room, job: Job, url: str) -> None:
    place = Place(url, "here", "tiny", None, frozenset({job.task}), known=True)
    cell = visit(job, room, {job.task: place})
    assert cell.state == "ok" or cell.text == "—", cell


@pytest.mark.vllm("tiny")
@pytest.mark.parametrize("job", CHAT, ids=id_of)
@pytest.mark.parametrize("room", ROOMS, ids=id_of)
def test_chat_jobs(room, job, vllm_url):
    pytest.importorskip(room.needs)
    check(room, job, vllm_url)


@pytest.mark.vllm("minilm")
@pytest.mark.parametrize("job", POOLING, ids=id_of)
@pytest.mark.parametrize("room", ROOMS, ids=id_of)
def test_pooling_jobs(room, job, vllm_url):
    pytest.importorskip(room.needs)
    check(room, job, vllm_url)
