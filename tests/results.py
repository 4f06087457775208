"""Where tests/bench and tests/bench-io put what they measured."""

import os
import pathlib

REPO = pathlib.Path(__file__).resolve().parent.parent
OUT = pathlib.Path(os.environ.get("LAB_OUT", REPO / "build/lab/out"))


def keep(name, text):
    """Keeps the table of one bench and shows it."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.md").write_text(text)
    print(text)


def write(name):
    """Puts the table that was kept last between its marks in docs/performance.md."""
    text = (REPO / "build/lab/out" / f"{name}.md").read_text()
    page = REPO / "docs/performance.md"
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    head, rest = page.read_text().split(begin)
    page.write_text(head + begin + text + end + rest.split(end)[1])
    print(f"{name}: wrote the table in {page.relative_to(REPO)}")
