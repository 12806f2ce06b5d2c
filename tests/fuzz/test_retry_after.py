"""Retry-After as servers write it, and as they should not: seconds, dates, nonsense."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from hypothesis import example, given, strategies as st

from fuzz.strategies import examples, retry_afters
from llm_config_sdk.decoding import parse_retry_after

NOW = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)
LONGEST = 366 * 24 * 3600.0  # seconds; the bound that the SDK states


@examples(300)
@given(retry_afters)
@example("\u0663")
@example("9" * 400)
@example("-1")
@example("nan")
def test_anything_is_a_bounded_number_of_seconds_or_nothing(value):
    seconds = parse_retry_after(value, now=NOW)
    assert seconds is None or 0 <= seconds <= LONGEST


@examples(150)
@given(st.integers(0, 10**7), st.sampled_from(["%d", " %d", "%d\t", "00%d"]))
def test_whole_seconds_are_read_exactly_up_to_the_bound(seconds, written):
    assert parse_retry_after(written % seconds) == seconds


@examples(100)
@given(st.integers(int(LONGEST), 10**100))
def test_what_is_longer_than_the_bound_is_the_bound(seconds):
    assert parse_retry_after(str(seconds)) == LONGEST


@examples(150)
@given(st.text("\u0660\u0663\u0967\uff11\u00b2\u2460", min_size=1, max_size=5))
def test_digits_of_other_scripts_are_no_number(text):
    assert parse_retry_after(text, now=NOW) is None


_FORMS = (  # RFC 9110, section 5.6.7: what is written today, and the two obsolete forms
    lambda when: format_datetime(when, usegmt=True),
    lambda when: when.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
    lambda when: when.strftime("%a %b %e %H:%M:%S %Y"),
)


@examples(150)
@given(st.integers(-(10**6), 10**7), st.sampled_from(_FORMS))
def test_a_date_in_any_form_of_http_is_so_many_seconds_away_and_never_in_the_past(seconds, written):
    assert parse_retry_after(written(NOW + timedelta(seconds=seconds)), now=NOW) == max(0, seconds)
