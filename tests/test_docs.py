"""The project's own pages agree with its code and its tests."""

import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_ROW = re.compile(r"^\| ([A-Z]\d+) \|", re.M)
_CITED = re.compile(r'"""((?:[A-Z]\d+(?:, | to )?)+):')


def test_every_cited_requirement_is_defined():
  """Docs: a number at the beginning of a test is a row of the page, once."""
  rows = _ROW.findall((_ROOT / "docs" / "requirements.md").read_text())
  assert len(rows) == len(set(rows))
  cited = {}
  for path in (_ROOT / "tests").rglob("*.py"):
    for numbers in _CITED.findall(path.read_text()):
      for number in re.findall(r"[A-Z]\d+", numbers):
        cited.setdefault(number, path.name)
  assert len(cited) > 50
  assert {n: where for n, where in cited.items() if n not in rows} == {}


@pytest.mark.parametrize(
  "page",
  sorted(p.relative_to(_ROOT) for p in _ROOT.glob("docs/*.md"))
  + [
    pathlib.Path("README.md"),
    pathlib.Path("CONTRIBUTING.md"),
  ],
  ids=str,
)
def test_links_between_pages_lead_somewhere(page):
  """Docs: of files of the repository."""
  text = (_ROOT / page).read_text()
  for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
    assert (_ROOT / page.parent / target).exists(), target


def test_the_page_of_own_parts_shows_the_files():
  """Docs: what a newcomer copies from the page is what the tests train."""
  text = (_ROOT / "docs" / "own_parts.md").read_text()
  shown = re.findall(r"```python\n# (experiments/\S+)\n(.*?)```", text, re.S)
  assert len(shown) == 5
  for name, block in shown:
    assert block in (_ROOT / name).read_text(), name


def test_modules_that_the_architecture_names_exist():
  """Docs: docs/architecture.md is the map of the code as it is."""
  text = (_ROOT / "docs" / "architecture.md").read_text()
  block = text.split("## Inside training")[1].split("## ")[0]
  names = [
    name
    for line in block.splitlines()
    if line.startswith("    ")
    for name in re.split(r"  +", line.strip())[0].split(", ")
  ]
  assert len(names) > 10
  for name in names:
    assert (_ROOT / "jaxplay" / "training" / f"{name}.py").exists(), name
