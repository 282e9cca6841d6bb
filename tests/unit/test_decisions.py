"""Tests how requests for decisions are validated and answered, and how answers are written."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from workers_ai_emulator.backends import decisions
from workers_ai_emulator.backends.decisions import decide_by_similarity
from workers_ai_emulator.backends.rules import parse_rules
from workers_ai_emulator.backends.scripted import ScriptedBackend
from workers_ai_emulator.models.catalog import CATALOG, ModelSpec
from workers_ai_emulator.tasks.decisions import DecisionRequest, Decisions, parse
from workers_ai_emulator.tasks.embeddings import EmbeddingRequest, Embeddings
from workers_ai_emulator.tasks.response_formats.decisions import decisions_result
from workers_ai_emulator.wire.context import CallContext
from workers_ai_emulator.wire.envelope import to_json
from workers_ai_emulator.wire.errors import (
    BAD_INPUT,
    CONTEXT_EXCEEDED,
    DECISION_REFUSED,
    INCOMPLETE_REQUEST,
    INVALID_DATA,
    NOT_SCRIPTED,
    OUT_OF_CAPACITY,
    WireError,
)

CLEF = CATALOG["@cf/cloudflare/clef"]
FLASH = CATALOG["@cf/cloudflare/clef-flash"]
TEAMS = {
    "billing": "Payments, invoices, and refunds",
    "technical": "Outages, errors, and configuration",
    "sales": "Plans and upgrades",
}
LEVELS = ["No impact", "Minor", "Major", "Critical"]
URGENT = {"type": "noul", "instructions": "Is this support request urgent?"}
TEAM = {"type": "choice", "instructions": "Which team should handle this?", "criteria": TEAMS}
SEVERITY = {"type": "score", "instructions": "How severe is the impact?", "criteria": LEVELS}
STATE = "Checkout has been failing for every customer for the last hour."
QUESTIONS = {"urgent": URGENT, "team": TEAM, "severity": SEVERITY}
BODY = {"model": "clef", "state": STATE, "questions": QUESTIONS}
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()

# Results of the service of 2026-10-03 and 2026-10-05, which three public programs have stored.
RECORDED = [
    '{"model":"clef","answers":{"urgent":{"type":"noul","noul":0.9906},"team":{"type":"choice",'
    '"choice":"technical","probabilities":{"billing":0.1762,"technical":0.8088,"sales":0.015},'
    '"confidence":0.5281},"severity":{"type":"score","score":2.9573,"legend":{"0":"No impact",'
    '"1":"Minor","2":"Major","3":"Critical"},"probabilities":{"0":0.0042,"1":0.0043,"2":0.0215,'
    '"3":0.97},"confidence":0.922}},"usage":{"input_tokens":346,"output_tokens":0}}',
    '{"model":"clef-flash","answers":{"urgent":{"type":"noul","noul":0.9551},"team":{"type":'
    '"choice","choice":"technical","probabilities":{"billing":0.0505,"technical":0.9355,"sales":'
    '0.014},"confidence":0.817},"severity":{"type":"score","score":2.7182,"legend":{"0":'
    '"No impact","1":"Minor","2":"Major","3":"Critical"},"probabilities":{"0":0.0151,"1":0.0144,'
    '"2":0.2077,"3":0.7628},"confidence":0.5005}},"usage":{"input_tokens":346,"output_tokens":0}}',
    '{"model":"clef-flash","answers":{"team":{"type":"choice","choice":"technical",'
    '"probabilities":{"billing":0.0332,"technical":0.9518,"sales":0.015},"confidence":0.8609}},'
    '"usage":{"input_tokens":142,"output_tokens":0}}',
    '{"model":"clef-flash","answers":{"green":{"type":"noul","noul":0.9661},"pick":{"type":'
    '"choice","choice":"mechanical","probabilities":{"mechanical":0.8954,"complex":0.1046},'
    '"confidence":0.6254}},"usage":{"input_tokens":217,"output_tokens":0}}',
]


def refusal(body: Any, spec: ModelSpec = CLEF) -> WireError:
    with pytest.raises(WireError) as failure:
        parse(body, spec)
    return failure.value


def field_errors(body: Any) -> dict[str, list[str]]:
    """Returns the mistakes in the text of the error for a body that the model refuses."""
    error = refusal(body)
    assert error.type is DECISION_REFUSED
    content = json.loads(str(error))["error"]
    assert content["message"] == "Request body failed validation"
    fields: dict[str, list[str]] = content["details"]["fieldErrors"]
    return fields


def question(**changes: Any) -> dict[str, Any]:
    """Returns a body whose only question is the choice of a team, with changes."""
    return {**BODY, "questions": {"q": {**TEAM, **changes}}}


# ── the input ─────────────────────────────────────────────────────────────────────────────────


def test_the_text_of_an_option_has_the_instructions_and_the_description() -> None:
    urgent, team, severity = parse(BODY, CLEF).questions
    assert urgent.texts == ("Is this support request urgent?", None)
    assert team.options == ("billing", "technical", "sales")
    assert team.texts[0] == (
        "Which team should handle this? billing: Payments, invoices, and refunds"
    )
    assert severity.options == ("0", "1", "2", "3")
    assert severity.texts[3] == "How severe is the impact? Critical"
    assert severity.levels == tuple(LEVELS)


def test_state_instructions_and_criteria_may_be_structured() -> None:
    body = {
        "model": "clef",
        "state": {"ticket": [1, "é"]},
        "questions": {
            "a": {"type": "noul", "instructions": {"q": "?"}, "criteria": {"false": ["b"]}},
            "b": {"type": "choice", "instructions": ["c"], "criteria": {"d": None, "e": {"f": 1}}},
        },
    }
    request = parse(body, CLEF)
    assert request.state == '{"ticket":[1,"é"]}'
    assert [each.texts for each in request.questions] == [
        (None, '{"q":"?"} ["b"]'),
        ('["c"] d', '["c"] e: {"f":1}'),
    ]
    assert request.texts == ('{"ticket":[1,"é"]}', '{"q":"?"} ["b"]', '["c"] d', '["c"] e: {"f":1}')


@pytest.mark.parametrize("spec", [CLEF, FLASH], ids=lambda spec: spec.name)
def test_without_a_model_the_body_is_for_the_model_in_the_path(spec: ModelSpec) -> None:
    without = {key: value for key, value in BODY.items() if key != "model"}
    assert parse(without, spec).model == spec.name.rpartition("/")[2]


def test_another_model_than_that_in_the_path_is_refused_except_for_a_user_s_model() -> None:
    error = refusal({**BODY, "model": " clef-flash "})
    assert error.message == (
        'AiError: AiError: {"error":{"type":"invalid_request",'
        "\"message\":\"Unsupported model 'clef-flash'. Use 'clef'.\"}}"
    )
    own = replace(CLEF, name="@cf/me/decider")
    assert [parse({**BODY, "model": name}, own).model for name in ("clef", "clef-flash")] == [
        "clef",
        "clef-flash",
    ]


def test_a_body_that_does_not_match_the_schema_has_the_validator_s_error() -> None:
    no_questions = "Error: required properties at '/' are 'model,state,questions'"
    invalid: list[Any] = [{}, {"q": {"type": "boolean", "instructions": "?"}}, [], "q"]
    for questions in invalid:
        error = refusal({**BODY, "questions": questions})
        assert (error.type, str(error)) == (BAD_INPUT, no_questions)
    assert "'/model' failed test" in str(refusal({**BODY, "model": "@cf/cloudflare/clef"}))
    assert refusal([]).type is BAD_INPUT


def test_the_service_s_limits_apply_to_questions_options_levels_and_images() -> None:
    def with_questions(number: int) -> dict[str, Any]:
        return {**BODY, "questions": {f"q{index}": URGENT for index in range(number)}}

    def with_options(number: int) -> dict[str, Any]:
        return question(criteria={f"o{index}": None for index in range(number)})

    def with_levels(number: int) -> dict[str, Any]:
        return question(type="score", criteria=["level"] * number)

    assert len(parse(with_questions(64), CLEF).questions) == 64
    assert field_errors(with_questions(65)) == {
        "questions": ["Dictionary should have at most 64 items after validation, not 65"]
    }
    for make, least, most in ((with_options, 2, 255), (with_levels, 2, 10)):
        for number in (least, most):
            assert len(parse(make(number), CLEF).questions[0].options) == number
        for number in (least - 1, most + 1):
            assert "questions" in field_errors(make(number))
    assert parse({**BODY, "images": [PNG] * 4}, CLEF).has_images
    assert "images" in field_errors({**BODY, "images": [PNG] * 5})


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("state", {**BODY, "state": None}),
        ("state", {**BODY, "state": 5}),
        ("extra", {**BODY, "extra": 1}),
        ("questions", {**BODY, "questions": {"a b": URGENT}}),
        ("questions", {**BODY, "questions": {"a" * 101: URGENT}}),
        ("questions", question(instructions="")),
        ("questions", question(instructions=5)),
        ("questions", question(extra=1)),
        ("questions", question(type="score", criteria=["a", None])),
        ("questions", {**BODY, "questions": {"a": {**URGENT, "criteria": {"yes": "y"}}}}),
        ("questions", question(criteria={"": None, "a": None})),
        ("questions", {**BODY, "questions": {"a": URGENT, "b": {"type": "boolean"}}}),
        ("questions", {**BODY, "questions": {"a": URGENT, "b": 5}}),
        ("questions", {**BODY, "questions": {"a": URGENT, "b": {**TEAM, "criteria": ["c", "d"]}}}),
        ("questions", {**BODY, "questions": {"a": URGENT, "b": {**URGENT, "criteria": ["c"]}}}),
    ],
)
def test_what_only_the_model_refuses_has_an_error_that_names_the_key(
    field: str, body: dict[str, Any]
) -> None:
    assert [*field_errors(body)] == [field]


@pytest.mark.parametrize(
    ("image", "is_valid"),
    [
        (PNG, True),
        ("data:image/jpg;base64,/9j/4AAQ", True),
        ({"content_type": "image/webp", "base64": "UklGRgAAAABXRUJQ"}, True),
        ("data:image/jpeg;base64," + base64.b64encode(b"<html>").decode(), False),
        ("data:image/png;base64,?", False),
        ("data:image/gif;base64,R0lGODlh", False),
        ({"content_type": "image/gif", "base64": "R0lGODlh"}, False),
        ("https://example.com/a.png", False),
    ],
)
def test_an_image_is_png_jpeg_or_webp(image: Any, is_valid: bool) -> None:
    body = {**BODY, "images": [image]}
    if is_valid:
        assert parse(body, CLEF).has_images
    else:
        assert field_errors(body) == {"images": ["image payload is invalid"]}


def test_a_body_that_is_too_long_has_the_error_for_the_context() -> None:
    assert parse({**BODY, "state": "a" * 520_000}, CLEF)
    error = refusal({**BODY, "state": "a" * 525_000})
    assert error.type is CONTEXT_EXCEEDED and "(65536)" in str(error)


# ── the result ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("recorded", RECORDED)
def test_an_answer_is_written_as_the_service_writes_it(recorded: str) -> None:
    """The recorded probabilities are rounded, so score and confidence may differ slightly."""
    expected = json.loads(recorded)
    result = decisions_result(*read(expected))
    assert without_sums(result) == without_sums(expected)
    assert without_digits(to_json(result).decode()) == without_digits(recorded)
    for id, answer in expected["answers"].items():
        for key in ("score", "confidence"):
            if key in answer:
                assert result["answers"][id][key] == pytest.approx(answer[key], abs=2e-4)


def read(result: dict[str, Any]) -> tuple[DecisionRequest, Decisions]:
    """Returns a request and decisions of which a recorded result is the answer."""
    questions: dict[str, Any] = {}
    probabilities = []
    for id, answer in result["answers"].items():
        type = answer["type"]
        options = answer.get("probabilities", {})
        criteria = [*answer["legend"].values()] if type == "score" else dict.fromkeys(options)
        questions[id] = {"type": type, "instructions": "?", "criteria": criteria}
        noul = answer.get("noul", 0)
        probabilities.append([*options.values()] or [noul, 1 - noul])
    body = {"model": result["model"], "state": "", "questions": questions}
    spec = CATALOG[f"@cf/cloudflare/{result['model']}"]
    return parse(body, spec), Decisions(probabilities, result["usage"]["input_tokens"])


def without_sums(result: dict[str, Any]) -> Any:
    answers = {
        id: {key: value for key, value in answer.items() if key not in ("score", "confidence")}
        for id, answer in result["answers"].items()
    }
    return {**result, "answers": answers}


def without_digits(text: str) -> str:
    return "".join(character for character in text if character not in ".0123456789")


@pytest.mark.parametrize(
    ("chances", "confidence"), [([1.0, 0.0, 0.0], 1), ([1 / 3, 1 / 3, 1 / 3], 0)]
)
def test_whole_numbers_have_no_digits(chances: list[float], confidence: int) -> None:
    request = parse({**BODY, "questions": {"q": TEAM}}, CLEF)
    text = to_json(decisions_result(request, Decisions([chances], 1))).decode()
    assert f'"confidence":{confidence}}}' in text


# ── how backends decide ───────────────────────────────────────────────────────────────────────


def decide(
    request: DecisionRequest, vectors: dict[str, list[float]], num_tokens: int = 7
) -> Sequence[Sequence[float]]:
    """Returns the probabilities with an embedding for each text; other texts have zeros."""

    async def embed(
        request: EmbeddingRequest, spec: ModelSpec, context: CallContext
    ) -> tuple[Embeddings, str]:
        return Embeddings([vectors.get(text, [0.0, 0.0]) for text in request.texts], 7), "fake"

    decided, model = asyncio.run(decide_by_similarity(embed, request, CLEF, CallContext()))
    assert (decided.num_tokens, model) == (num_tokens, "fake")
    return decided.probabilities


def test_the_option_whose_text_is_most_similar_to_the_state_is_most_probable() -> None:
    request = parse(BODY, CLEF)
    urgent, team, severity = request.questions
    near = {str(text): [1.0, 0.0] for text in (STATE, team.texts[1], severity.texts[3])}
    unrelated, choice, score = decide(request, near)
    assert unrelated == pytest.approx([0.018, 0.982], abs=1e-3)
    assert choice[1] > 0.99 and score[3] > 0.99
    assert all(sum(chances) == pytest.approx(1) for chances in (unrelated, choice, score))
    related, *_ = decide(request, near | {str(urgent.texts[0]): [2.0, 0.0]})
    assert related[0] > 0.99


def test_many_texts_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    request = parse(BODY, CLEF)
    vectors = {text: [1.0, index / 10] for index, text in enumerate(request.texts)}
    together = decide(request, vectors)
    monkeypatch.setattr(decisions, "_MAX_TEXTS", 2)
    assert decide(request, vectors, num_tokens=5 * 7) == together


@pytest.mark.parametrize("images", [True, 3, 0, False])
def test_images_that_are_no_list_are_refused(images: Any) -> None:
    assert field_errors({**BODY, "images": images}) == {"images": ["Input should be a valid list"]}


def test_the_text_of_an_option_has_the_beginning_of_long_instructions() -> None:
    questions = {"team": {**TEAM, "instructions": "Which team? " * 10_000}}
    texts = parse({**BODY, "questions": questions}, CLEF).questions[0].texts
    assert len(texts) == len(TEAM["criteria"]) and max(len(text or "") for text in texts) < 1100


def test_a_local_model_refuses_images_because_it_cannot_read_them() -> None:
    with pytest.raises(WireError) as failure:
        decide(parse({**BODY, "images": [PNG]}, CLEF), {})
    assert failure.value.type is INVALID_DATA


def scripted(rules: Any, body: dict[str, Any] = BODY, *, is_strict: bool = False) -> Any:
    """Returns the answers of the backend `scripted`."""
    backend = ScriptedBackend(parse_rules(rules), is_strict=is_strict)
    request = parse(body, CLEF)
    decided, _ = asyncio.run(backend.decide(request, CLEF, CallContext(inputs=body)))
    return decisions_result(request, decided)["answers"]


def test_a_rule_fixes_answers_and_the_others_follow_from_the_words() -> None:
    rule = {"contains": "Checkout", "json": {"urgent": True, "team": "sales", "severity": 2.5}}
    answers = scripted(rule)
    assert answers["urgent"]["noul"] == 1
    assert answers["team"]["choice"] == "sales" and answers["team"]["confidence"] == 1
    assert answers["severity"]["score"] == 2.5
    assert answers["severity"]["probabilities"] == {"0": 0, "1": 0, "2": 0.5, "3": 0.5}
    some = scripted({"json": {"urgent": 0.25}})
    assert some["urgent"]["noul"] == 0.25 and some["team"] == scripted([])["team"]
    assert scripted({"contains": "invoice", "json": {"urgent": True}}) == scripted([])


def test_a_rule_may_have_probabilities_a_template_and_an_answer_for_each_call() -> None:
    answers = scripted({"json": {"team": {"billing": 3, "sales": 1}, "severity": {"3": 1}}})
    assert answers["team"]["probabilities"] == {"billing": 0.75, "technical": 0, "sales": 0.25}
    assert answers["severity"]["score"] == 3
    rule = {"matches": "for every (\\w+)", "template": True, "json": {"team": "{{ groups[0] }}"}}
    teams = {**TEAM, "criteria": {"customer": None, "user": None}}
    assert scripted(rule, {**BODY, "questions": {"team": teams}})["team"]["choice"] == "customer"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"answer": "Yes"}, "a decision needs `json`"),
        ({"json": ["urgent"]}, "a decision needs `json`"),
        ({"json": {"other": True}}, 'the request has no question "other"'),
        ({"json": {"urgent": "yes"}}, 'the answer to "urgent" takes true, false'),
        ({"json": {"urgent": 2}}, 'the answer to "urgent" takes true, false'),
        ({"json": {"team": "support"}}, 'the answer to "team" takes the id of an option'),
        ({"json": {"team": {"sales": 0}}}, 'the answer to "team" takes the id of an option'),
        ({"json": {"team": {"sales": "1"}}}, 'the answer to "team" takes the id of an option'),
        ({"json": {"team": {"sales": 10**400}}}, 'the answer to "team" takes the id of an option'),
        ({"answer": "[" * 100_000}, "a decision needs `json`"),
        ({"json": {"severity": 3.5}}, 'the answer to "severity" takes a number from 0'),
        ({"json": {"severity": True}}, 'the answer to "severity" takes a number from 0'),
    ],
)
def test_a_rule_that_is_no_answer_is_an_error_with_the_reason(
    answer: dict[str, Any], reason: str
) -> None:
    with pytest.raises(WireError) as failure:
        scripted(answer)
    assert failure.value.type is INCOMPLETE_REQUEST
    assert "the script's rule 1" in str(failure.value) and reason in str(failure.value)


def test_a_rule_may_have_a_fault_and_strict_scripts_need_a_rule() -> None:
    with pytest.raises(WireError) as failure:
        scripted({"fault": "capacity"})
    assert failure.value.type is OUT_OF_CAPACITY
    with pytest.raises(WireError) as failure:
        scripted({"contains": "invoice", "json": {}}, is_strict=True)
    assert failure.value.type is NOT_SCRIPTED


def test_a_script_answers_questions_about_images() -> None:
    answers = scripted({"json": {"urgent": False}}, {**BODY, "images": [PNG]})
    assert answers["urgent"]["noul"] == 0
