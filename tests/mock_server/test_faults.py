"""Rules, matches and steps, without a socket."""

from contextlib import nullcontext

import pytest
from hypothesis import given, strategies as st

from llm_config_mock_server import At, Match, Step, close, error, latency, long_tail, ok, reset
from llm_config_mock_server.faults import FaultBook
from llm_config_mock_server.messages import Request
from llm_config_mock_server.randomness import Randomness
from llm_config_sdk.contract import CODES, VARIANTS

GET = Request(
    "GET", "/api/v1/configs/app%2Fllm/model?env=prod", (("Authorization", "Bearer t1"), ("X-Tenant", "blue"))
)


def at(seconds: float = 0.0) -> At:
    return At(0, seconds)


def book(seed: int = 1) -> FaultBook:
    return FaultBook(Randomness(seed), nullcontext())


def names(faults: FaultBook, count: int, request: Request = GET, seconds: float = 0.0) -> list[str | None]:
    picks = [faults.pick(request, at(seconds), early=False) for _ in range(count)]
    return [pick.step.name if pick else None for pick in picks]


@pytest.mark.parametrize(
    ("repeat", "expected"),
    [
        ("never", ["reset", "close", None, None, None]),
        ("last", ["reset", "close", "close", "close", "close"]),
        ("all", ["reset", "close", "reset", "close", "reset"]),
    ],
)
def test_what_comes_after_the_last_step_is_said_by_repeat(repeat, expected):
    faults = book()
    faults.script("*", [reset(), close()], repeat=repeat, at=at())
    assert names(faults, 5) == expected


def test_random_steps_are_drawn_anew_and_all_of_them():
    faults = book()
    faults.script("*", [reset(), close(), ok()], repeat="random", at=at())
    assert set(names(faults, 60)) == {"reset", "close", "ok"}


def test_times_repeats_the_whole_sequence():
    faults = book()
    rule = faults.script("*", [reset(), ok()], times=2, at=at())
    assert names(faults, 5) == ["reset", "ok", "reset", "ok", None]
    assert (rule.fired, rule.is_spent) == (4, True)


def test_the_rule_scripted_last_wins_and_spent_rules_step_aside():
    faults = book()
    faults.script("*", reset(), repeat="last", at=at())
    faults.script("*", close(), at=at())
    assert names(faults, 3) == ["close", "reset", "reset"]


def test_a_rule_can_be_taken_back_and_all_can_be_cleared():
    faults = book()
    with faults.script("*", reset(), repeat="last", at=at()) as rule:
        assert names(faults, 1) == ["reset"]
        assert list(faults) == [rule]
    assert names(faults, 1) == [None]
    rule.remove()
    faults.script("*", reset(), at=at())
    faults.clear()
    assert len(faults) == 0
    assert names(faults, 1) == [None]


def test_a_rule_tells_what_it_is():
    faults = book()
    rule = faults.script("GET /health", [error("NOT_FOUND"), ok()], at=at())
    assert repr(rule) == "<Rule 1: GET to /health -> [error NOT_FOUND, ok], repeat never, fired 0>"


def test_a_schedule_begins_and_ends():
    faults = book()
    faults.script("*", reset(), repeat="last", between=(10, 20), at=at(100))
    assert [names(faults, 1, seconds=second) for second in (109.9, 110, 119.9, 120)] == [
        [None],
        ["reset"],
        ["reset"],
        [None],
    ]


def test_a_schedule_comes_again_in_a_part_of_every_period_and_within_its_bounds():
    faults = book()
    faults.script("*", reset(), repeat="last", between=(100, 220), every=(60, 5), at=at())
    struck = [second for second in range(300) if names(faults, 1, seconds=second) == ["reset"]]
    assert struck == [*range(100, 105), *range(160, 165)]


def test_a_host_that_cannot_carry_a_fault_says_so_when_it_is_armed():
    faults = book()
    faults.script("*", [ok(), latency(1)], at=at())
    faults.restrict("the pigeon", lambda _, step: "tears the letter" if step.name == "reset" else None)
    with pytest.raises(ValueError, match="the pigeon cannot carry the fault 'reset': it tears the letter"):
        faults.script("*", [ok(), reset()], at=at())
    assert len(faults) == 1
    with pytest.raises(ValueError, match="the snail cannot carry the fault 'latency'"):
        faults.restrict("the snail", lambda _, step: "is too fast" if step.name == "latency" else None)


def test_a_connection_can_be_late():
    faults = book()
    faults.script(Match(connection=True), latency(2), at=at())
    assert faults.pick_for_connection(at()).before == 2


def test_a_long_tail_has_its_median_and_its_99th_percentile():
    faults = book()
    faults.script("*", latency(long_tail(median=0.02, p99=0.5)), repeat="last", at=at())
    drawn = sorted(faults.pick(GET, at(), early=False).before for _ in range(2_000))
    assert 0.015 < drawn[1_000] < 0.027
    assert 0.25 < drawn[1_980] < 1.0
    with pytest.raises(ValueError, match="0 < median <= p99"):
        long_tail(1, 0.5)


def test_a_probability_is_kept_and_repeats_with_the_seed():
    def run(seed: int) -> list[str | None]:
        faults = book(seed)
        faults.script("*", reset(), repeat="last", probability=0.1, at=at())
        return names(faults, 2_000)

    first = run(1)
    assert 140 < first.count("reset") < 260
    assert run(1) == first
    assert run(2) != first


def test_what_other_rules_do_does_not_change_a_draw():
    alone, beside = book(), book()
    for faults in (alone, beside):
        faults.script("*", reset(), repeat="last", probability=0.5, at=at())
    beside.script("/health", close(), repeat="last", probability=0.5, at=at())
    beside_names = []
    for _ in range(50):
        names(beside, 1, Request("GET", "/health"))
    # Requests to /health that the newer rule let be were judged by the older one: count those out.
    judged = [rule.judged for rule in beside][-1]
    alone_names = names(alone, judged + 20)
    beside_names = names(beside, 20)
    assert beside_names == alone_names[judged:]


def test_delays_are_fixed_uniform_or_drawn():
    faults = book()
    steps = [latency(0.5), latency((1.0, 2.0), after=3), latency(lambda source: source.expovariate(1.0))]
    faults.script("*", steps, at=at())
    fixed, uniform, drawn = (faults.pick(GET, at(), early=False) for _ in steps)
    assert (fixed.before, fixed.after) == (0.5, 0.0)
    assert 1.0 <= uniform.before <= 2.0
    assert uniform.after == 3
    assert drawn.before > 0


def test_only_a_step_at_the_head_is_picked_early_and_nothing_else_is_used_up():
    faults = book()
    rule = faults.script("*", [reset(), reset().at_head()], at=at())
    assert faults.pick(GET, at(), early=True) is None
    assert rule.fired == 0
    assert names(faults, 1) == ["reset"]
    assert faults.pick(GET, at(), early=True).step.early


@pytest.mark.parametrize(
    "match",
    [
        Match(),
        Match(method="get"),
        Match(path="/api/v1/configs/app%2Fllm/model"),
        Match(path="/api/v1/configs/app/llm/*"),
        Match(namespace="app/*", key="mod??"),
        Match(env="PROD"),
        Match(token="t1"),
        Match(headers={"x-tenant": "bl*"}),
        Match.parse("GET"),
        Match.parse("get /api/*"),
        Match.parse("/api/*"),
        Match.parse("*"),
        Match.parse("GET *"),
        Match.parse("GET app/llm/model"),
        Match.parse("app/llm/*"),
    ],
    ids=repr,
)
def test_a_match_covers_what_it_says(match):
    assert match.covers(GET)


@pytest.mark.parametrize(
    "match",
    [
        Match(method="POST"),
        Match(path="/api/v1/configs"),
        Match(namespace="app"),
        Match(key="other"),
        Match(env="dev"),
        Match(token="t2"),
        Match(headers={"x-tenant": "red"}),
        Match(headers={"x-nothing": "*"}),
        Match(connection=True),
        Match.parse("POST /api/*"),
        Match.parse("GET app/llm/other"),
        Match.parse("app/model"),
    ],
    ids=repr,
)
def test_a_match_covers_nothing_else(match):
    assert not match.covers(GET)


def test_the_environment_of_a_write_is_read_from_its_body():
    write = Request("POST", "/api/v1/configs/a/b", (), b'{"env": "Prod", "value": 1}')
    assert Match(env="production").covers(write)
    for body in (b"", b"[]", b"nonsense", b'{"env": 5}', b'{"env": "mars"}', b"[" * 100_000):
        assert not Match(env="production").covers(Request("POST", "/api/v1/configs/a/b", (), body))


@pytest.mark.parametrize("text", ["", "GET health", "GET /a /b", "5xx"])
def test_a_string_that_is_no_match_is_refused(text):
    with pytest.raises(ValueError, match="is no match"):
        Match.parse(text)


@given(st.text())
def test_any_string_is_a_match_or_is_refused(text):
    try:
        Match.parse(text)
    except ValueError:
        return


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"steps": []}, "at least one step"),
        ({"times": 0}, "times must be"),
        ({"probability": 1.5}, "probability must be"),
        ({"repeat": "often"}, "repeat must be"),
        ({"between": (5, 5)}, "between must be"),
        ({"every": (5, 6)}, "every must be"),
        ({"every": (5, 0)}, "every must be"),
        ({"match": Match(env="mars")}, "unknown environment"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        book().script(**{"match": "*", "steps": [ok()], "at": at(), **arguments})


@pytest.mark.parametrize("delay", ["1", -1, (2, 1), (1, 2, 3), None])
def test_a_delay_that_is_none_is_refused(delay):
    with pytest.raises(
        ValueError, match="before must be 0 or more seconds, a range of them, or a function, not"
    ):
        latency(delay)


@pytest.mark.parametrize("code", list(CODES))
def test_every_code_can_be_scripted(code):
    spec = error(code).error
    assert (spec.code, spec.status, spec.retriable) == (code, CODES[code].status, CODES[code].retriable)


@pytest.mark.parametrize(("module", "variant"), list(VARIANTS))
def test_every_variant_can_be_scripted(module, variant):
    facts = VARIANTS[module, variant]
    for step in (error(module=module, variant=variant), error(variant=f"{module}.{variant}")):
        assert (step.error.code, step.error.status, step.error.retriable) == (
            facts.code,
            facts.status,
            facts.retriable,
        )
        assert step.error.details == {"module": module, "variant": variant}


def test_an_error_takes_a_word_of_its_own():
    spec = error(
        "TEAPOT", status=418, message="short and stout", details={"a": 1}, retriable=True, kind="X"
    ).error
    assert (spec.code, spec.status, spec.message, spec.retriable) == ("TEAPOT", 418, "short and stout", True)
    assert spec.details == {"a": 1, "kind": "X"}


def test_an_error_needs_a_code_or_a_variant_that_there_is():
    with pytest.raises(ValueError, match="needs a code or a variant"):
        error()
    with pytest.raises(ValueError, match="no variant"):
        error(variant="cache.Flood")


def test_a_step_is_data():
    assert reset() == reset()
    assert isinstance(reset().after_effect(), Step)
    assert reset().after_effect().effect
    assert reset().delayed(before=1, after=2).after == 2


@pytest.mark.parametrize(("asked", "sent"), [(1, "1"), (1.0, "1"), (3600.0, "3600"), (0.25, "0.25")])
def test_a_retry_after_of_whole_seconds_is_written_as_http_has_it(asked, sent):
    assert error("SERVICE_UNAVAILABLE", retry_after=asked).error.retry_after == sent


def test_a_code_that_looks_misspelt_is_refused_unless_its_status_is_given():
    with pytest.raises(ValueError, match="did you mean SERVICE_UNAVAILABLE"):
        error("SERVICE_UNAVAILBLE")
    assert error("SERVICE_UNAVAILBLE", status=503).error.code == "SERVICE_UNAVAILBLE"
    assert error("TEAPOT").error.status == 500


def test_a_method_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="GTE is no method"):
        Match.parse("GTE *")


@pytest.mark.parametrize("steps", [error, [ok(), "reset"]])
def test_what_is_no_step_is_refused_by_name(steps):
    with pytest.raises(TypeError, match=r"(error|'reset') is no step"):
        book().script("GET *", steps)
