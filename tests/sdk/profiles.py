"""Both servers under one suite: the client's behaviour is the same, but for what stands here with its reason.

Every test of the modules below runs against the guide's server and against 0.5. A difference runs
there too and has to fail: one that is none any more is found out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

GUIDE: Final = "guide"
UPSTREAM: Final = "upstream-0.5"
BEHIND_TLS: Final = {"X-Forwarded-Proto": "https"}  # what every client of the 0.5 server has to send

# What the 0.5 server does not have; the sentences of PLATFORM.md sections 2 and 2a.
_NO_CODES = "an error is a status and a message: no code or variant, nothing of whether to retry"
_NO_TAGS = "replies have no ETag, and a condition on one is not looked at: every read has its body"
_NO_VERSIONS = "If-Match is not looked at: the last writer wins, and the client warns"
_NO_TOKENS = "nobody is asked for a token: there is no 401, and no role"
_NO_KEYS = "Idempotency-Key is not looked at, and there is no conflict about one"
_DELETE_TRIED_AGAIN = "a 500 cannot say that it is final: the delete is tried again and finds its work done"

DIFFERENCES: Final[Mapping[str, Mapping[str, str]]] = {
    "test_client_cache": {
        "test_a_write_makes_its_entry_be_asked_for_again_however_it_ends[fails-delete]": _DELETE_TRIED_AGAIN
    },
    "test_client_calls": {
        "test_a_default_does_not_stand_in_for_an_unknown_user": _NO_CODES,
        "test_a_token_is_shown_nowhere": _NO_TOKENS,
        "test_a_version_that_moved_on_is_a_conflict": _NO_VERSIONS,
        "test_invalid_data_that_only_the_server_can_judge_is_a_validation_failure": _NO_CODES,
        "test_roles_are_told_apart": _NO_TOKENS,
    },
    "test_client_etag": {
        "test_a_read_that_has_to_be_fresh_asks_in_the_same_way": _NO_TAGS,
        "test_a_retried_read_asks_by_its_tag_each_time": _NO_TAGS,
        "test_a_secret_is_renewed_and_stays_one": _NO_TAGS,
        "test_a_stale_entry_is_renewed_without_its_body": _NO_TAGS,
        "test_a_watched_entry_is_asked_for_by_its_tag": _NO_TAGS,
        "test_an_entry_goes_on_being_renewed": _NO_TAGS,
        "test_an_entry_that_could_not_be_renewed_is_stale_and_keeps_its_tag": _NO_TAGS,
        "test_an_outage_in_between_leaves_a_watch_its_tag": _NO_TAGS,
        "test_what_a_caller_has_in_hand_stays_as_it_was_when_it_is_renewed": _NO_TAGS,
        "test_what_has_changed_is_sent_whole": _NO_TAGS,
        "test_what_is_watched_is_asked_for_by_its_tag": _NO_TAGS,
    },
    "test_client_features": {},
    "test_client_idempotency": {
        "test_a_conflict_with_ones_own_first_attempt_is_waited_out": _NO_KEYS,
        "test_a_conflict_with_somebody_elses_request_is_raised_at_once": _NO_KEYS,
        "test_an_attempt_that_does_not_end_in_time_is_told_with_what_to_do": _NO_KEYS,
    },
    "test_client_stack": {
        "test_a_read_is_repeated_if_and_only_if_that_may_help[400, retriable]": _NO_CODES,
        "test_a_read_is_repeated_if_and_only_if_that_may_help[500, not retriable]": _NO_CODES,
        "test_an_answer_that_was_lost_is_given_again_for_the_same_idempotency_key": _NO_KEYS,
    },
    "test_client_resolve": {},
    "test_client_strict": {},
    "test_snapshot": {},
}

_LEFT_OUT: Final = frozenset(
    {
        # Names that its filter takes for an attack are drawn now and then: it is not always the same.
        "test_any_valid_name_goes_to_its_own_entry_and_back",
        # Nobody is asked for a token there, so the watch that ought to end would go on for ever.
        "test_a_watch_of_what_may_not_be_read_raises",
    }
)
# What a server says reaches every face by the same code: one colour shows it, and two what each call is like.
_COLOURS: Final = {"test_client_calls": frozenset({"sync", "asyncio"})}
_ONE_COLOUR: Final = frozenset({"sync"})


def on_both_profiles(metafunc: pytest.Metafunc) -> None:
    """Give a test of the modules above both servers."""
    if _module(metafunc.module) in DIFFERENCES and {"server", "backup"} & set(metafunc.fixturenames):
        metafunc.parametrize("profile", [GUIDE, UPSTREAM], indirect=True)


def runs_there(item: pytest.Item) -> bool:
    """Say whether a test says something, and mark one that has to fail on the 0.5 server."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return True
    parameters: Mapping[str, Any] = item.callspec.params
    # The tests of other folders are collected beside these, and may have profiles of their own.
    if _module(item.module) not in DIFFERENCES or parameters.get("profile") != UPSTREAM:
        return True
    module, reason = _module(item.module), difference(item)
    faces = {parameters[name] for name in ("face", "any_face", "injected_face") if name in parameters}
    colours = _ONE_COLOUR if reason is not None else _COLOURS.get(module, _ONE_COLOUR)
    if item.originalname in _LEFT_OUT or not faces <= colours:
        return False
    if reason is not None:
        item.add_marker(pytest.mark.xfail(reason=f"0.5: {reason}", strict=True))
    return True


def difference(item: pytest.Function) -> str | None:
    """Return why a test has another outcome on the 0.5 server, or `None`."""
    for known, reason in DIFFERENCES[_module(item.module)].items():
        name, _, case = known.partition("[")
        if item.originalname == name and case.removesuffix("]") in item.callspec.id:
            return reason
    return None


def _module(module: Any) -> str:
    name: str = module.__name__
    return name.rpartition(".")[2]
