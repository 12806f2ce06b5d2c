"""The core without a wire: requests and times in, outcomes out."""

import pytest
from hypothesis import given, settings, strategies as st

from llm_config_mock_server import At, Limits, error, hang, latency, malformed, reset
from llm_config_mock_server.core import Core, Options, Platform
from llm_config_mock_server.idempotency import KEPT_SECONDS
from llm_config_mock_server.limiter import Limiter
from llm_config_mock_server.messages import Drip, End, Later, Outcome, Reply, Request
from llm_config_mock_server.profiles import load_profile
from llm_config_mock_server.randomness import Randomness
from llm_config_mock_server.storage import MemoryStorage

ITEM = "/api/v1/configs/app/model"
JSON = (("Content-Type", "application/json"),)
SET = Request("POST", ITEM, JSON)
BODY = b'{"value": 1, "env": "dev"}'


def at(seconds: float = 0.0) -> At:
    return At(1_700_000_000_000_000_000 + int(seconds * 1e9), seconds)


@pytest.fixture
def core() -> Core:
    platform = Platform(MemoryStorage(), Randomness(1), Options(auth=False), limits=None, encryption_key=None)
    return Core(load_profile("guide"), platform)


def ask(core: Core, request: Request, body: bytes = b"", moment: At | None = None) -> Outcome:
    moment = moment or at()
    exchange = core.begin(request, moment)
    outcome = exchange.answer_head(moment) or exchange.answer(body, moment)
    assert isinstance(outcome, Outcome)
    return outcome


def test_a_request_becomes_a_reply(core):
    outcome = ask(core, SET, BODY)
    assert outcome.reply.status == 200
    assert outcome.delivery.end is End.KEEP
    assert ask(core, Request("GET", ITEM)).reply.header("ETag") == outcome.reply.header("etag")


def test_a_delay_before_the_effect_is_asked_for_once_and_nothing_happens_meanwhile(core):
    core.faults.script("POST", latency(5, after=2), at=at())
    exchange = core.begin(SET, at())
    assert exchange.answer_head(at()) is None
    assert exchange.answer(BODY, at()) == Later(5)
    assert ask(core, Request("GET", ITEM)).reply.status == 404
    outcome = exchange.answer(BODY, at(5))
    assert (outcome.reply.status, outcome.delivery.delay) == (200, 2)
    assert ask(core, Request("GET", ITEM)).reply.status == 200


def test_a_head_can_be_refused_or_let_through_or_made_to_wait(core):
    assert core.begin(SET, at()).answer_head(at()) is None
    refused = core.begin(Request("POST", ITEM), at()).answer_head(at())
    assert refused.reply.status == 415
    core.faults.script("POST", error("RATE_LIMIT_EXCEEDED").at_head().delayed(before=1), at=at())
    exchange = core.begin(SET, at())
    assert exchange.answer_head(at()) == Later(1)
    assert exchange.answer_head(at(1)).reply.status == 429


def test_an_outcome_says_how_the_wire_is_to_break(core):
    core.faults.script("*", [reset(), hang().after_effect(), malformed()], at=at())
    assert ask(core, SET, BODY) == Outcome(None, reset().delivery)
    assert ask(core, Request("GET", ITEM)).reply is None
    assert ask(core, Request("GET", "/health")).reply.body.startswith(b'{"status')


def test_a_key_is_held_while_its_request_waits_and_free_once_it_is_abandoned(core):
    core.faults.script("POST", latency(5), at=at())
    keyed = Request("POST", ITEM, (*JSON, ("Idempotency-Key", "k")))
    waiting = core.begin(keyed, at())
    assert waiting.answer(BODY, at()) == Later(5)
    assert ask(core, keyed, BODY).reply.status == 409
    waiting.abandon()
    assert ask(core, keyed, BODY).reply.status == 200
    assert [entry.outcome for entry in core.journal] == ["abandoned", "409 CONFLICT", "200"]


def test_a_key_is_kept_for_a_day(core):
    keyed = Request("POST", ITEM, (*JSON, ("Idempotency-Key", "k")))
    assert ask(core, keyed, BODY).reply.header("idempotency-replayed") is None
    assert ask(core, keyed, BODY, at(KEPT_SECONDS)).reply.header("idempotency-replayed") == "true"
    assert ask(core, keyed, BODY, at(KEPT_SECONDS + 1)).reply.header("idempotency-replayed") is None


def test_an_unparsable_request_is_refused_in_the_profiles_words(core):
    reply = core.refuse(400, "no HTTP", at())
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST")
    assert reply.header("x-request-id").startswith("req_")


@settings(deadline=None)  # a busy machine is no defect
@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "FROB"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126)),
    st.lists(
        st.tuples(
            st.sampled_from(["accept", "if-match", "if-none-match", "authorization"]), st.text(max_size=20)
        )
    ),
    st.binary(max_size=60),
)
def test_whatever_is_asked_the_answer_is_a_reply_and_never_a_defect(method, rest, headers, body):
    platform = Platform(MemoryStorage(), Randomness(1), Options(auth=False), limits=None, encryption_key=None)
    core = Core(load_profile("guide"), platform)
    for target in (f"/{rest}", f"/api/v1/configs/{rest}", f"{ITEM}?{rest}", f"{ITEM}/rollback/{rest}"):
        reply = ask(core, Request(method, target, (*JSON, *headers)), body).reply
        assert 200 <= reply.status < 600
    assert core.defects == []


# --- Limits ---------------------------------------------------------------------------------------


def test_a_burst_passes_and_then_the_rate():
    limiter = Limiter(Limits(rate=10, burst=3))
    assert [limiter.take("a", 0.0).allowed for _ in range(4)] == [True, True, True, False]
    assert limiter.take("b", 0.0).allowed
    refused = limiter.take("a", 0.0)
    assert refused.retry_after == pytest.approx(0.1)
    assert refused.reset_after == pytest.approx(0.3)
    assert limiter.take("a", 0.1).allowed
    assert not limiter.take("a", 0.1).allowed


@settings(deadline=None)  # a busy machine is no defect
@given(st.integers(1, 20), st.lists(st.floats(0, 2), max_size=60))
def test_no_window_ever_sees_more_than_burst_and_rate(burst, gaps):
    limiter, now, passed = Limiter(Limits(rate=5, burst=burst)), 0.0, []
    for gap in gaps:
        now += gap
        if limiter.take("a", now).allowed:
            passed.append(now)
    for first, begin in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + 5 * (passed[last] - begin) + 1e-3


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_a_limit_that_lets_nothing_through_is_refused(rate, burst):
    with pytest.raises(ValueError, match="positive rate"):
        Limits(rate, burst)


# --- Messages -------------------------------------------------------------------------------------


def test_a_moment_has_nine_digits_and_an_offset():
    moment = At(1_705_314_600_000_000_001, 0.0)
    assert moment.rfc3339() == "2024-01-15T10:30:00.000000001+00:00"
    assert moment.rfc3339("Z") == "2024-01-15T10:30:00.000000001Z"


def test_repeated_headers_are_joined_and_names_have_no_case():
    request = Request("GET", "/", (("If-Match", "a"), ("IF-MATCH", "b")))
    assert request.header("if-match") == "a, b"
    assert request.header("nothing") is None
    reply = Reply(200, (("ETag", "1"), ("Date", "x")))
    assert reply.with_headers(("etag", "2")).headers == (("Date", "x"), ("etag", "2"))


def test_a_namespace_is_read_from_its_one_segment():
    request = Request("GET", "/api/v1/configs/app%2Fllm/a%2Eb/history?env=Prod")
    assert (request.namespace, request.key, request.environment) == ("app/llm", "a.b", "production")
    assert (Request("GET", "/health").namespace, Request("GET", "/api/v1/configs/app").key) == (None, None)
    assert Request("GET", "/x?env=mars").environment == "mars"


def test_a_drip_is_data():
    assert Drip(0.1) == Drip(0.1, 1)
