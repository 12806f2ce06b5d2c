"""The table that sets this client beside other SDKs: what it says of this client."""

import re

from pages import DOCS

PAGE = DOCS / "explanation" / "comparison.md"
BLOCK = re.compile(
    r"<!-- Written by docs/tools/peers\.py.*?-->(.*)<!-- End of what docs/tools/peers\.py", re.DOTALL
)


def lines():
    table = [line for line in BLOCK.search(PAGE.read_text())[1].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_first_column_is_this_client_and_meets_every_line():
    (_, ours, *others), *rows = lines()
    assert ours == "llm-config-sdk"
    assert others
    assert [row[0] for row in rows if not row[1].startswith("✓")] == []


def test_every_other_sdk_has_a_verdict_on_every_line():
    heads, *rows = lines()
    assert rows
    assert all(len(row) == len(heads) for row in rows)
    assert all(cell[0] in "✓✗–" for row in rows for cell in row[1:])  # noqa: RUF001  # the dash is meant
