"""What ``make bulk`` counts after a job was killed."""

import json

import pytest
from bulk.figures import Figures


@pytest.fixture
def file(tmp_path):
    """A function that writes a file of results, each an index and its reply; ``None`` is an error."""

    def write(name, *results):
        lines = [{"job": {}}]
        for index, text in results:
            reply = {"error": {}} if text is None else {"reply": {"choices": [{"message": {"content": text}}]}}
            lines.append({"index": index, **reply})
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write


def test_each_item_once_is_no_problem(file):
    figures = Figures(3, memory={"job": [100, 110]})
    figures.count([(0, file("a", (1, "1"), (0, "0"))), (2, file("b", (0, "2")))], str)
    assert figures.problems() == []


def test_missing_doubled_failed_and_wrong_items_are_counted(file):
    figures = Figures(5)
    figures.count([(0, file("a", (0, "0"), (0, "0"), (1, "9"), (2, None)))], str)
    assert (figures.missing, figures.doubled, figures.failed, figures.wrong) == (2, 1, 1, 1)
    assert len(figures.problems()) == 4


def test_replies_are_not_compared_without_a_prompt(file):
    figures = Figures(1)
    figures.count([(0, file("a", (0, "anything")))], None)
    assert figures.wrong is None
    assert figures.problems() == []


@pytest.mark.parametrize("memory", [[], [0, 0], [100, 121]])
def test_memory_that_grew_or_was_not_measured_is_a_problem(memory):
    assert len(Figures(0, memory={"job": memory}).problems()) == 1
