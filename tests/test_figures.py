"""The page of the playbook's figures, and the tool that makes it."""

import importlib.util
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PAGE = _ROOT / "docs" / "figures.md"
_SIZE = 300_000  # bytes, of all figures together


@pytest.fixture(scope="module")
def tool():
  path = _ROOT / "tools" / "figures.py"
  spec = importlib.util.spec_from_file_location("tool_figures", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_page_has_the_nine_figures_of_the_tool(tool):
  """D16: each with its place, and at least one file, after its words."""
  text = _PAGE.read_text()
  headings = re.findall(r"^## Figure (\d+):", text, re.M)
  assert headings == [str(number) for number in range(1, 10)]
  places = re.findall(
    r"<!-- figure (\w+): by tools/figures.py -->\n(.*?)<!-- end -->", text, re.S
  )
  assert [number for number, _ in places] == list(tool.FIGURES)
  for number, middle in places:
    assert re.findall(r"!\[[^\]]+\]\(figures/\w+\.svg\)", middle), number
    assert re.search(r"\d", middle.partition("Measured")[2]), number


def test_the_files_are_those_of_the_page():
  """D16: no figure is missing, none is left over, and together they load."""
  named = set(re.findall(r"\(figures/(\w+\.svg)\)", _PAGE.read_text()))
  files = list((_ROOT / "docs" / "figures").iterdir())
  assert {path.name for path in files} == named
  assert sum(path.stat().st_size for path in files) < _SIZE
  for path in files:
    tree = ElementTree.parse(path)
    assert tree.getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list(tree.iter("{http://www.w3.org/2000/svg}path"))) > 5


def test_a_place_is_filled_again_and_others_are_kept(tool):
  """D16: with --only the figures that are not made stay as they are."""
  text = (
    "words\n<!-- figure 1: by tools/figures.py -->\n<!-- end -->\n"
    "more\n<!-- figure 2: by tools/figures.py -->\nold\n<!-- end -->\nlast\n"
  )
  once = tool.filled(text, "1", ["a.svg"], "0.5")
  assert "(a.svg)" in once and "0.5" in once and "\nold\n" in once
  assert tool.filled(once, "1", ["a.svg"], "0.5") == once
  again = tool.filled(once, "2", ["b.svg", "c.svg"], "7")
  assert "old" not in again and "(b.svg)" in again and "(c.svg)" in again
  assert again.startswith("words\n") and again.endswith("\nlast\n")
  with pytest.raises(SystemExit, match="figure 3"):
    tool.filled(text, "3", [], "")


@pytest.mark.slow
def test_figure_one_is_made_end_to_end(tmp_path):
  """D16: two studies, their figures and the numbers; then only read."""
  page = tmp_path / "page.md"
  page.write_text("<!-- figure 1: by tools/figures.py -->\n<!-- end -->\n")
  command = [sys.executable, "tools/figures.py", "--only=1", f"--page={page}"]
  command += [f"--workdir={tmp_path / 'runs'}", "--trials=4", "--steps=20"]
  texts = []
  for _ in range(2):
    subprocess.run(command, cwd=_ROOT, check=True, capture_output=True)
    texts.append(page.read_text())
  assert texts[0] == texts[1]
  files = re.findall(r"\((page/\w+\.svg)\)", texts[0])
  assert len(files) == 2
  for file in files:
    ElementTree.parse(tmp_path / file)
