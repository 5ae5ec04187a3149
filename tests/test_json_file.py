"""The findings as a JSON file."""

from __future__ import annotations

import json


def test_a_relative_name_is_relative_to_where_pytest_was_started(suite):
    suite.file("elsewhere/test_moves.py", "import os\ndef test_it(): os.chdir(os.path.dirname(__file__))\n")
    suite.pytester.runpytest_subprocess("--poolguard-json=out.json")
    assert json.loads((suite.path / "out.json").read_text())["findings"] == []


def test_others_may_read_it_as_they_may_read_any_new_file(suite):
    suite.pytester.runpytest_subprocess("--poolguard-json=out.json")
    plain = suite.file("plain", "")
    assert (suite.path / "out.json").stat().st_mode == plain.stat().st_mode
    assert [path.name for path in suite.path.glob("out.json.*")] == []
