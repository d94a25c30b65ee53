"""What a run is written down as: run files, the presets that ship, and recipes of other tools.

Knows the words of `cloister.api` and YAML; no socket, no data.
"""

from cloister.recipes.presets import PRESETS, Aim, preset_text, run_file_text
from cloister.recipes.run_file import RunFile, parse_run_file, read_run_file

__all__ = ["PRESETS", "Aim", "RunFile", "parse_run_file", "preset_text", "read_run_file", "run_file_text"]
