"""What each version of vLLM makes of each capability: recorded from real servers, and compared with ``outcomes.json``.

``make versions`` runs this live and writes the cassettes, ``outcomes.json`` and the table of ``docs/versions.md`` anew.
"""

import json
import shutil
from pathlib import Path

import pytest
from version_matrix import CAPABILITIES, OUTCOMES, VERSIONS, of_model, outcome

MODELS = tuple(dict.fromkeys(item.model for item in CAPABILITIES))
RELEASES = [name for name, options in VERSIONS.items() if list(options) == ["version"]]
FILE = Path(__file__).with_name("outcomes.json")
REQUIRED_GB = 12  # for another environment


def read_outcomes():
    return json.loads(FILE.read_text(encoding="utf-8"))


def write_outcomes(version, outcomes):
    table = read_outcomes()
    known = table.get(version, {}) | outcomes
    table[version] = {item.name: known[item.name] for item in CAPABILITIES if item.name in known}
    table = {name: table[name] for name in VERSIONS if name in table}
    FILE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


@pytest.fixture
def room_for_an_environment(request):
    """Remove the environments of other versions before a live run, if the disk is short."""
    if not request.config.getoption("vllm_live"):
        return
    from vllm_adapters.local.environment import cache_dir
    from vllm_adapters.local.server import DEFAULT_VERSION

    version = VERSIONS[request.node.callspec.params["version"]]["version"]
    kept = {f"env-{version}", f"env-{DEFAULT_VERSION}"}
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    for environment in sorted(cache.glob("env-*")):
        if environment.name not in kept and shutil.disk_usage(cache).free < REQUIRED_GB * 1e9:
            shutil.rmtree(environment)


@pytest.mark.another_version
@pytest.mark.usefixtures("room_for_an_environment", "vllm_urls")
@pytest.mark.parametrize(
    ("version", "model"),
    [
        pytest.param(version, model, marks=pytest.mark.vllm(model, **VERSIONS[version]), id=f"{version}-{model}")
        for version in VERSIONS
        for model in MODELS
        if model == "tiny" or version in RELEASES
    ],
)
def test_outcomes(vllm_server, sent, version, model, request):
    def sent_bodies():
        return [item.json for item in sent if item.body]

    assert vllm_server.version == VERSIONS[version]["version"]
    found = {item.name: outcome(item, vllm_server, sent_bodies) for item in of_model(model)}
    if request.config.getoption("vllm_record"):
        write_outcomes(version, {name: word for name, (word, _) in found.items()})
    wrong = {name: detail for name, (word, detail) in found.items() if word == "WRONG"}
    assert not wrong, json.dumps(wrong, indent=1)
    expected = read_outcomes()[version]
    assert {name: word for name, (word, _) in found.items()} == {
        item.name: expected[item.name] for item in of_model(model)
    }


def test_outcomes_are_complete():
    """Each version has an outcome for each capability, and none is wrong."""
    table = read_outcomes()
    assert list(table) == list(VERSIONS)
    for version, outcomes in table.items():
        assert list(outcomes) == [item.name for item in CAPABILITIES if item.model == "tiny" or version in RELEASES]
        assert set(outcomes.values()) <= set(OUTCOMES) - {"WRONG"}
