"""Every block of every page runs, and every output shown is the one that comes."""

import pytest
from pages import LANGUAGES_RUN, ROOT, SNIPPET, PageRunner, all_pages, fences, matches, name_of


@pytest.mark.parametrize("path", all_pages(), ids=name_of)
def test_the_blocks_of_a_page_run(path, world):
    PageRunner(path, world).run()


@pytest.mark.parametrize("path", all_pages(), ids=name_of)
def test_no_block_is_left_out_by_its_info_string(path):
    for info, block in fences(path.read_text()):
        language = info.split()[0] if info else ""
        if language.startswith("{"):  # a whole file of docs/examples, which has tests of its own
            assert (ROOT / SNIPPET.fullmatch(block.lstrip("\n"))["path"]).exists()
        assert language not in {"py", "python3", "pycon", "bash", "sh", "shell"}, f"{info}: not run"
        if language in LANGUAGES_RUN:
            assert info == language, f"{info!r}: a block that is run has nothing behind its language"
        if language == "console":
            assert block.lstrip().startswith("$ ")


def test_an_output_may_leave_out_what_differs_from_run_to_run():
    assert matches("a … c\n…\nend", "a b c\n1\n2\nend\n")
    assert not matches("a … c", "a b d")
    assert not matches("gpt-4", "gpt-4o")


def test_a_page_that_lies_is_found_out(world, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n\n```output\n2\n```\n")
    with pytest.raises(AssertionError, match="the page shows"):
        PageRunner(page, world).run()


def test_a_block_whose_output_is_left_out_is_found_out(world, tmp_path):
    page = tmp_path / "page.md"
    for rest in ("", "\n```python\npass\n```\n"):
        page.write_text(f"```python\nprint(1)\n```\n{rest}")
        with pytest.raises(AssertionError, match="no output block"):
            PageRunner(page, world).run()


def test_a_command_whose_output_differs_is_found_out(world, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```console\n$ llm-config-sdk get app/llm model\ngpt-3\n```\n")
    with pytest.raises(AssertionError, match="the command printed"):
        PageRunner(page, world).run()


def test_a_command_that_cannot_be_checked_has_to_be_marked(world, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```console\n$ uname\nLinux\n```\n")
    with pytest.raises(AssertionError, match="mark it"):
        PageRunner(page, world).run()
    page.write_text("<!-- not run: it is another machine's -->\n\n```console\n$ uname\nLinux\n```\n")
    PageRunner(page, world).run()


def test_a_page_runs_against_the_reference_server_where_it_names_the_example_host(world, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nfrom llm_config_sdk import ConfigClient\n\n"
        'with ConfigClient("https://config.example.com", token="…") as client:\n'
        '    print(client.get_config("app/llm", "model", env="production").endpoint)\n```\n\n'
        "```output\nhttps://config.example.com\n```\n"
    )
    PageRunner(page, world).run()
    world.primary.journal.assert_count(1, method="GET", key="model")


def test_a_command_that_goes_on_for_ever_ends_when_it_has_shown_what_the_page_shows(world, tmp_path):
    page = tmp_path / "page.md"
    told = "<!-- run until this is shown; meanwhile app/llm model becomes gpt-5 -->\n\n"
    command = "$ llm-config-sdk watch app/llm model --interval 0.05\n"
    shown = f'{command}Watching app/llm model [production]; Ctrl-C ends it.\n… "gpt-4" … → "gpt-5" …'
    page.write_text(f"{told}```console\n{shown}\n```\n")
    PageRunner(page, world).run()
    page.write_text(f"{told}```console\n{shown.replace('gpt-5', 'gpt-6')}\n```\n")
    with pytest.raises(AssertionError, match="the command printed"):
        PageRunner(page, world).run()
