"""The README: its code runs as it stands, and its figures are printed from records."""

import re
from pathlib import Path

from green_kernels.bench.markdown import markdown
from green_kernels.bench.record import read

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_code_runs(tmp_path, monkeypatch, capsys):
    """All blocks one after another, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        exec(block, names)
    assert re.search(r"\d converted, \d left", capsys.readouterr().out)
    assert names["y"].shape == (8, 1536) and (tmp_path / "model.safetensors").exists()


def test_tables_are_printed_from_records():
    """No figure is typed: what stands between the marks is what the records give."""
    pattern = r"<!-- records: (\S+) -->\n(.*?)<!-- end of records -->"
    blocks = re.findall(pattern, README, re.DOTALL)
    assert blocks
    for path, block in blocks:
        assert block == markdown(read(ROOT / path))
