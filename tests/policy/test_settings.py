"""The settings: what the handbook says of each key is what the program takes."""

from __future__ import annotations

from pathlib import Path

from cloister.policy import settings_table


def test_the_handbook_has_every_key_with_its_default_and_meaning() -> None:
    handbook = (Path(__file__).parents[2] / "deploy" / "handbook.md").read_text()
    assert settings_table.markdown() in handbook, "python -m cloister.policy.settings_table"
    assert all(meaning for _, _, meaning in settings_table.rows())
