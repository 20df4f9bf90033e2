"""Print this machine's name and its addresses, as JSON; a name server may keep it waiting."""

from __future__ import annotations

import json
import socket
from typing import Any


def main() -> dict[str, Any]:
    """Return ``name`` and ``addresses``, or the ``error`` in their place."""
    name = socket.gethostname()
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except (OSError, UnicodeError) as error:
        return {"name": name, "error": getattr(error, "strerror", None) or str(error)}
    return {"name": name, "addresses": sorted(found)}


if __name__ == "__main__":
    print(json.dumps(main()), flush=True)
