"""Print whether torchvision's compiled parts load, as JSON; run in a process of its own."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def main() -> dict[str, Any]:
    """Return why each part does not load, or None where it does; nothing without either package."""
    import torch  # noqa: PLC0415

    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent
    parts = {"operators": "_C", "decoders": "image"}
    return {part: _refused(torch, folder, library) for part, library in parts.items()}


def _refused(torch: Any, folder: Path, library: str) -> str | None:
    found = sorted(folder.glob(f"{library}*.so")) or sorted(folder.glob(f"{library}*.pyd"))
    if not found:
        return f"torchvision has no {library}.so"
    try:
        torch.ops.load_library(found[0])
        if library == "_C":
            boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
            torch.ops.torchvision.nms(boxes, torch.ones(1), 0.5)
    except Exception as error:
        return str(error.__cause__ or error).strip().partition("\n")[0][:300]
    return None


if __name__ == "__main__":
    print("\n" + json.dumps(main()), flush=True)
