"""The two clients are one: the same methods, words and types, and the same decisions once `await` is gone."""

import ast
import inspect
import re
import textwrap
import typing

import pytest

from llm_config_sdk import AsyncConfigClient, AsyncStackTransport, ConfigClient, StackTransport
from llm_config_sdk.transport import AsyncInjectedTransport, InjectedTransport
from llm_config_sdk.transport.connection import AsyncConnection, Connection

RENAMED = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__"}
PAIRS = [
    (ConfigClient, AsyncConfigClient),
    (StackTransport, AsyncStackTransport),
    (Connection, AsyncConnection),
    (InjectedTransport, AsyncInjectedTransport),
]
CLIENT_METHODS = sorted(
    name
    for name, member in vars(ConfigClient).items()
    if inspect.isfunction(member) and name not in RENAMED.values()
)
AWAITED = {
    "get_config", "get_value", "get_str", "get_int", "get_float", "get_bool", "get_json", "resolve",
    "list_configs", "get_history", "set_config", "delete_config", "rollback", "health_check", "request",
    "get_many", "set_many", "prefetch", "get_fields", "bind", "check_audit",
}  # fmt: skip


def members(cls):
    return {RENAMED.get(name, name) for name, member in vars(cls).items() if inspect.isfunction(member)}


def test_the_clients_have_the_same_methods():
    assert members(ConfigClient) == members(AsyncConfigClient)


def test_what_asks_a_server_is_awaited_and_nothing_else():
    public = {name for name in CLIENT_METHODS if not name.startswith("_")}
    assert {
        name for name in public if inspect.iscoroutinefunction(getattr(AsyncConfigClient, name))
    } == AWAITED
    assert not any(inspect.iscoroutinefunction(getattr(ConfigClient, name)) for name in public)


@pytest.mark.parametrize("name", CLIENT_METHODS)
def test_a_method_has_the_same_signature_on_both(name):
    sync, asynchronous = (inspect.signature(getattr(cls, name)) for cls in (ConfigClient, AsyncConfigClient))
    assert str(sync) == str(asynchronous).replace("'AsyncWatch'", "'Watch'")


@pytest.mark.parametrize("name", [name for name in CLIENT_METHODS if not name.startswith("_")])
def test_a_method_has_the_same_documentation_on_both(name):
    told = inspect.getdoc(getattr(ConfigClient, name))
    assert told
    assert told == inspect.getdoc(getattr(AsyncConfigClient, name))


@pytest.mark.parametrize("name", [name for name in CLIENT_METHODS if not name.startswith("_")])
def test_a_method_documents_each_of_its_arguments(name):
    method = getattr(ConfigClient, name)
    told = inspect.getdoc(method)
    if "Arguments as `get_value`" in told:
        told = inspect.getdoc(ConfigClient.get_value)
    names = [name for name in inspect.signature(method).parameters if name != "self"]
    assert [name for name in names if f"{name}: " not in told] == []


def test_the_overloads_are_the_same_on_both():
    for name in CLIENT_METHODS:
        sync = typing.get_overloads(getattr(ConfigClient, name))
        asynchronous = typing.get_overloads(getattr(AsyncConfigClient, name))
        assert [inspect.signature(each) for each in sync] == [
            inspect.signature(each) for each in asynchronous
        ]
    assert len(typing.get_overloads(ConfigClient.get_value)) == 3


def test_the_classes_document_the_same_arguments():
    arguments = [inspect.getdoc(cls).partition("Args:")[2] for cls in (ConfigClient, AsyncConfigClient)]
    assert arguments[0] == arguments[1] != ""


class _Plain(ast.NodeTransformer):
    """Takes the colour out of async code."""

    def visit_Await(self, node):
        return self.visit(node.value)

    def visit_AsyncFunctionDef(self, node):
        return self.visit(
            ast.FunctionDef(node.name, node.args, node.body, node.decorator_list, node.returns, lineno=0)
        )

    def visit_AsyncFor(self, node):
        return self.visit(ast.For(node.target, node.iter, node.body, node.orelse, lineno=0))


def plain(cls, name):
    source = textwrap.dedent(inspect.getsource(vars(cls)[name]))
    tree = _Plain().visit(ast.parse(source))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = body[1:]
    text = ast.unparse(ast.fix_missing_locations(tree))
    text = re.sub(r"\bAsync(?=[A-Z])", "", text)
    text = re.sub(r"_async\b|_async(?=_request)", "", text)
    for old, new in (
        ("aclose", "close"),
        ("aread", "read"),
        ("__aenter__", "__enter__"),
        ("__aexit__", "__exit__"),
    ):
        text = text.replace(old, new)
    return (
        text.replace("running_loop()", "self")
        .replace("anyio.Event", "threading.Event")
        .replace("many.at_once", "many.one_by_one")
    )


@pytest.mark.parametrize(
    ("sync", "asynchronous", "name"),
    [
        (sync, asynchronous, name)
        for sync, asynchronous in PAIRS[:3]
        for name, member in vars(sync).items()
        if inspect.isroutine(member)
        and name
        # Waiting is what differs, and async closes and resolves many at once.
        not in {"_close_all", "_take_turn", "_wait", "resolve"}
        # Closing takes time in async alone, and there anyio tries a host's addresses.
        and (sync, name) not in {(Connection, "close"), (Connection, "_reach")}
    ],
    ids=lambda part: part if isinstance(part, str) else part.__name__,
)
def test_the_bodies_are_equal_once_async_and_await_are_gone(sync, asynchronous, name):
    named = {new: old for old, new in RENAMED.items()}.get(name, name)
    renamed = {"handle_request": "handle_async_request"}.get(name, named)
    if renamed not in vars(asynchronous):
        renamed = name
    assert plain(sync, name) == plain(asynchronous, renamed)


def test_the_comparison_of_bodies_sees_a_difference():
    assert plain(ConfigClient, "get_str") != plain(AsyncConfigClient, "get_int")
