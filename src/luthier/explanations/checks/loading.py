"""Errors of saving and loading files, and of putting what they hold into a model."""

from __future__ import annotations

import re

from luthier.explanations.values import Case, Facts

_KEYS = re.compile(r'"([^"]+)"')
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")


def prefixed(case: Case) -> Facts | None:
    """Return the prefix by which the keys of the file and of the model differ."""
    missing, unexpected = _keys(case, "Missing"), _keys(case, "Unexpected")
    if not missing or not unexpected:
        return None
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in unexpected):
            bare = {key.removeprefix(prefix) for key in unexpected}
            if bare & missing:
                return {"prefix": prefix, "keys": len(unexpected), "same": len(bare & missing)}
    return None


def _keys(case: Case, kind: str) -> set[str]:
    """Return the keys that a message of load_state_dict lists as missing or unexpected."""
    found = re.search(rf"{kind} key\(s\) in state_dict: (.*)", case.raised.message)
    return set(_KEYS.findall(found[1])) if found else set()
