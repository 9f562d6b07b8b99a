"""Every error and every check of the doctor has an entry in the page on troubleshooting."""

import re
from pathlib import Path

from vllm_adapters import errors
from vllm_adapters.doctor.checks import CHECKS

TEXT = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
PART = r"- \*\*(?:{})\.\*\* .*\n(?:  .*\n)*"
ENTRY = re.compile(r"^### (.+)\n\n" + "".join(map(PART.format, ("Symptom", "Cause", "Do|Flag"))), re.M)


def test_every_error_and_every_check_has_symptom_cause_and_remedy():
    expected = [*(set(errors.__all__) - {"VLLMError"}), *(f"Check: {check.name}" for check in CHECKS)]
    assert sorted(ENTRY.findall(TEXT)) == sorted(expected)


def test_every_error_of_the_table_of_errors_is_listed():
    table = (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(\w+)` \|", table, re.M))
    assert named <= set(errors.__all__)
