"""Lists that a server sends in pages, read as one."""

import pytest

from llm_config_mock_server import respond
from llm_config_sdk import (
    CachePolicy,
    RequestTimeoutError,
    ResiliencePolicy,
    ResponseDecodeError,
    ValidationError,
)

NAMESPACE = "app/llm"
LIST = "/api/v1/configs/app%2Fllm"


@pytest.fixture
def keys(server):
    """Eleven entries."""
    names = [f"k{number:02}" for number in range(11)]
    for name in names:
        server.put(NAMESPACE, name, name.upper(), env="production")
    return names


def paged(server, *pages, headers=None):
    """Have the server cut the list of its own accord, as it likes."""
    every = {key: server.entry(NAMESPACE, key, env="production") for page in pages for key in page}
    steps = []
    for number, page in enumerate(pages):
        link = f'<{LIST}?env=production&page={number + 2}>; rel="next"'
        more = {"Link": link} if number + 1 < len(pages) else {}
        steps.append(respond(200, [every[key] for key in page], headers={**more, **(headers or {})}))
    server.script("GET *", steps)


@pytest.mark.parametrize(("page_size", "requests"), [(1, 11), (4, 3), (11, 1), (100, 1), (None, 1)])
def test_pages_make_the_whole_list(connect_any, server, keys, page_size, requests):
    listed = connect_any().list_configs(NAMESPACE, page_size=page_size)
    assert [entry.key for entry in listed] == keys
    server.journal.assert_count(requests)


def test_a_server_that_cuts_lists_of_its_own_accord_is_read_to_the_end(connect, server, keys):
    paged(server, keys[:4], keys[4:8], keys[8:])
    assert [entry.key for entry in connect().list_configs(NAMESPACE)] == keys
    targets = [entry.request.target for entry in server.journal]
    assert targets == [f"{LIST}?env=production", *(f"{LIST}?env=production&page={n}" for n in (2, 3))]
    assert len({entry.request_id for entry in server.journal}) == 1, "it is one call"


def test_whatever_reads_a_namespace_reads_all_of_its_pages(connect, server, keys):
    client = connect(cache=CachePolicy())
    paged(server, keys[:6], keys[6:])
    assert client.prefetch(NAMESPACE) == 11
    paged(server, keys[:6], keys[6:])
    assert len(client.get_fields(NAMESPACE)) == 11


def test_a_watch_reads_all_pages_and_keeps_no_tag_of_one(connect, server, keys, face):
    paged(server, keys[:6], keys[6:], headers={"ETag": '"page"'})
    changes = connect().watch(NAMESPACE, interval=0.001)
    face.run(changes._poll, changes._poll)
    assert changes._tracker.held is None


def test_a_history_in_pages_is_whole_too(connect, server):
    client = connect()
    for number in range(5):
        client.set_config(NAMESPACE, "model", number)
    whole = client.request("GET", f"{LIST}/model/history?env=production")
    link = {"Link": f'<{LIST}/model/history?env=production&offset=2>; rel="next"'}
    server.script("GET *history*", [respond(200, whole[:2], headers=link), respond(200, whole[2:])])
    assert [item.version for item in client.get_history(NAMESPACE, "model")] == [5, 4, 3, 2, 1]


def test_what_moved_between_pages_is_in_there_once(connect, server, keys):
    paged(server, keys[:6], keys[5:])
    assert [entry.key for entry in connect().list_configs(NAMESPACE)] == keys


@pytest.mark.parametrize(
    "link",
    [
        f"<{LIST}?env=production>; rel=next",
        '<https://elsewhere.example/steal?env=production>; rel="next"',
        f'<{LIST}/k01?env=production&page=2>; rel="next"',
        f'<{LIST}>; rel="next"',
        '<http://[>; rel="next"',
        f'<{LIST}?env=production&x=\u00e4>; rel="next"',
    ],
)
def test_a_next_page_that_is_elsewhere_or_the_same_is_refused(connect, server, keys, link):
    server.script("GET *", respond(200, [], headers={"Link": link.encode().decode("latin-1")}))
    with pytest.raises(ResponseDecodeError, match="page"):
        connect().list_configs(NAMESPACE)
    server.journal.assert_count(1)


@pytest.mark.parametrize(
    "link",
    [
        f'<{LIST}?page=2>; rel="prev"',
        f"<{LIST}?page=2>",
        "nonsense",
        f'<{LIST}?page=2>; title="next"',
    ],
)
def test_a_link_to_something_else_is_no_next_page(connect, server, keys, link):
    server.script("GET *", respond(200, [], headers={"Link": link}))
    assert connect().list_configs(NAMESPACE) == []
    server.journal.assert_count(1)


def test_another_host_in_a_link_is_this_server_under_its_inner_name(connect, server, keys):
    link = f'<http://inner.example:8080{LIST}?env=production&offset=3>; rel="last next"'
    server.script("GET *", respond(200, [], headers={"Link": link}))
    assert [entry.key for entry in connect().list_configs(NAMESPACE)] == keys[3:]
    assert len(server.journal) == 2, "and nobody else is asked"


def test_all_pages_share_the_time_of_one_call(connect, server, keys, clock):
    client = connect(timeout=10, resilience=ResiliencePolicy(retry=None))
    link = {"Link": f'<{LIST}?env=production&page=2>; rel="next"'}
    server.script("GET *", respond(200, [], headers=link))
    real = client.client._run

    def late(plan):
        clock.advance(11)
        return real(plan)

    client.client._run = late
    with pytest.raises(RequestTimeoutError, match="within 10 s"):
        client.list_configs(NAMESPACE)
    server.journal.assert_count(1)


@pytest.mark.parametrize("page_size", [0, -1, 1.5, True, "2"])
def test_a_page_size_that_is_none_is_refused(connect, server, page_size):
    with pytest.raises(ValidationError, match="page_size"):
        connect().list_configs(NAMESPACE, page_size=page_size)
    server.journal.assert_count(0)
