"""Typed questions about a text: ``/v1/decisions`` of vLLM 0.33 and newer."""

import pytest
from packaging.version import Version
from version_marks import vllm_since

from vllm_adapters import VLLMServer
from vllm_adapters import errors as e
from vllm_adapters.testing import faults
from vllm_adapters.types import Decision

# A Qwen3, which vLLM lets decide, with random weights; a reply must begin with one token for each label.
DECIDES = pytest.mark.vllm(
    "tiny",
    flags=(
        "--hf-overrides",
        '{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}',
        "--load-format",
        "dummy",
        "--chat-template",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n",
    ),
)
PREDICATE = {"type": "predicate", "name": "about cats", "instructions": "Is it about a cat?"}
CHOICE = {"type": "choice", "instructions": "Which animal?", "choices": [{"value": "cat"}, {"value": True}]}
SCORE = {"type": "score", "instructions": "How calm?", "levels": [{"label": level} for level in ("low", "mid", "high")]}
QUESTIONS = [PREDICATE, CHOICE, SCORE]
ANSWERS = [
    {"type": "predicate", "name": "about cats", "probability": 0.75},
    {
        "type": "choice",
        "name": None,
        "choice": True,
        "probabilities": [{"value": "cat", "probability": 0.25}, {"value": True, "probability": 0.75}],
        "confidence": 0.5,
    },
    {
        "type": "score",
        "name": None,
        "score": 1.5,
        "probabilities": [
            {"value": index, "label": label, "probability": probability}
            for index, (label, probability) in enumerate([("low", 0.25), ("mid", 0.0), ("high", 0.75)])
        ],
        "confidence": 0.5,
    },
]


@pytest.fixture
def newest(make_fault_server):
    return make_fault_server(version="0.33.0")


@pytest.fixture
def server(newest):
    with VLLMServer(newest.url, max_retries=0) as server:
        yield server


@DECIDES
@vllm_since("0.33", reason="/v1/decisions does not exist")
async def test_questions_are_answered_with_probabilities(vllm_server, sent):
    predicate, choice, score = vllm_server.decide("The cat sleeps.", QUESTIONS)
    assert sent.last.json == {"model": "tiny", "input": "The cat sleeps.", "questions": QUESTIONS}
    assert predicate.name == "about cats"
    assert predicate.probs == pytest.approx([1 - predicate.answer, predicate.answer])
    assert choice.answer == ("cat", True)[choice.probs.index(max(choice.probs))]
    assert score.answer == pytest.approx(score.probs[1] + 2 * score.probs[2])
    for decision in (choice, score):
        assert sum(decision.probs) == pytest.approx(1)
        assert 0 < decision.confidence < 1
    messages = [{"role": "user", "content": "The cat sleeps."}]
    assert (await vllm_server.adecide(messages, [PREDICATE], cache_salt="s"))[0].name == "about cats"
    assert sent.last.json["input"] == messages
    assert sent.last.json["cache_salt"] == "s"


@DECIDES
@vllm_since("0.33", reason="/v1/decisions does not exist")
def test_question_that_the_server_refuses(vllm_server):
    twice = {**CHOICE, "choices": [{"value": "cat"}, {"value": "cat"}]}
    with pytest.raises(e.InvalidRequest, match="choice values must be distinct"):
        vllm_server.decide("The cat sleeps.", [twice])


@pytest.mark.vllm("tiny")
def test_model_that_does_not_decide(vllm_url, vllm_version, sent):
    with VLLMServer(vllm_url, max_retries=2) as server:
        if vllm_version < Version("0.33"):
            with pytest.raises(
                e.WrongAddress, match=r"does not have the route /v1/decisions; vLLM has it from 0\.33\.0"
            ):
                server.decide("The cat sleeps.", [PREDICATE])
        else:
            with pytest.raises(e.WrongAddress, match="does not support the Decisions API"):
                server.decide("The cat sleeps.", [PREDICATE])
            assert [request.path for request in sent].count("/v1/decisions") == 1


def test_answers_of_a_server(newest, server):
    newest.reply(faults.json_reply({"model": "tiny", "answers": ANSWERS}), "/v1/decisions")
    assert server.decide("The cat sleeps.", QUESTIONS) == [
        Decision("about cats", 0.75, [0.25, 0.75]),
        Decision(None, True, [0.25, 0.75], 0.5),
        Decision(None, 1.5, [0.25, 0.0, 0.75], 0.5),
    ]


@pytest.mark.parametrize(
    "answers",
    [
        ANSWERS[:2],
        [ANSWERS[1], ANSWERS[0], ANSWERS[2]],
        [{**ANSWERS[0], "name": "other"}, *ANSWERS[1:]],
        [{**ANSWERS[0], "probability": None}, *ANSWERS[1:]],
        [ANSWERS[0], {**ANSWERS[1], "choice": "dog"}, ANSWERS[2]],
        [ANSWERS[0], {**ANSWERS[1], "probabilities": ANSWERS[1]["probabilities"][:1]}, ANSWERS[2]],
        [*ANSWERS[:2], {**ANSWERS[2], "confidence": "high"}],
    ],
    ids=["one too few", "in another order", "other name", "no number", "no choice", "missing choice", "no confidence"],
)
def test_malformed_answers(newest, server, answers):
    newest.reply(faults.json_reply({"model": "tiny", "answers": answers}), "/v1/decisions")
    with pytest.raises(e.InvalidResponse):
        server.decide("The cat sleeps.", QUESTIONS)


def test_no_questions_are_not_sent(newest, server):
    assert server.decide("The cat sleeps.", []) == []
    assert not newest.requests


def test_questions_must_be_a_list(server):
    with pytest.raises(TypeError, match="`questions` must be a sequence of dict, not dict"):
        server.decide("The cat sleeps.", PREDICATE)


def test_unknown_parameter_is_refused(server):
    with pytest.raises(e.UnknownParameter, match="cache_slat"):
        server.decide("The cat sleeps.", [PREDICATE], cache_slat="s")


def test_what_is_not_implemented_is_sent_once(newest, server):
    newest.reply(faults.error(501, "The model does not support the structured decision API"), "/v1/systemone")
    with server.client.with_options(max_retries=2) as client, pytest.raises(e.WrongAddress, match="for this model"):
        client.post("/systemone", body={"state": "x", "questions": {}}, cast_to=dict[str, object])
    assert [request.route for request in newest.requests] == ["/v1/systemone"]
