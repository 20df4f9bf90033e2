"""The virtual environment in which luthier and its peers are measured: pinned, made once."""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
ROOT = BENCH.parent
SCRIPTS = BENCH / "compare"
SCRATCH = BENCH / ".scratch"
_PINS = (SCRIPTS / "requirements.txt", SCRIPTS / "constraints.txt")


def ready(folder: Path, say: Callable[[str], None]) -> Path:
    """Return the environment's Python; it is made, or brought up to date, where it has to be.

    luthier is installed editable: what is measured is this checkout as it stands.
    """
    python = folder / "bin" / "python"
    wanted = "\n".join([str(ROOT), *(pins.read_text(encoding="utf-8") for pins in _PINS)])
    stamp = folder / "installed.txt"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    say(f"installing the pinned packages into {folder} (2 GB, minutes)")
    hidden(folder)
    if not python.exists():
        venv.create(folder, with_pip=True)
    requirements, constraints = map(str, _PINS)
    command = [str(python), "-m", "pip", "install", "--quiet", "-r", requirements]
    subprocess.run([*command, "-c", constraints, "-e", str(ROOT)], check=True)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def hidden(folder: Path) -> Path:
    """Return a folder that exists, and that git does not see."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    return folder
