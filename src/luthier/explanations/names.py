"""What the user calls things, read from the lines of code that a traceback shows. Pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from luthier.explanations.values import Frame

_LONGEST = 48  # characters of an expression that still reads well inside a line of code


def bind(patterns: Sequence[str], frames: Sequence[Frame]) -> dict[str, str]:
    """Return the user's expressions for the names of a call.

    Args:
        patterns: calls such as ``"MODEL.load_state_dict(STATE)"``. What is written in capitals is
            a name to bind; the rest must be as it is. The first that is found counts.
        frames: of a traceback; the user's own lines are looked at, the innermost first.

    Returns:
        by the name in small letters; one that is not found is itself: ``"model"``.
    """
    names = {n.id for p in patterns for n in ast.walk(_expression(p)) if _is_place(n)}  # type: ignore[attr-defined]
    found = {name.lower(): name.lower() for name in sorted(names)}
    own = [frame for frame in reversed(frames) if not frame.is_library]
    for pattern in patterns:
        for frame in own:
            for call in _calls(frame):
                places = _match(_expression(pattern), call)
                if places is not None:
                    return found | {name.lower(): text for name, text in places.items()}
    return found


def _expression(pattern: str) -> ast.expr:
    return ast.parse(pattern, mode="eval").body


def _is_place(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id.isupper()


def _calls(frame: Frame) -> Iterator[ast.Call]:
    """Yield the calls in a line, those of the underlined part first."""
    for text in (frame.marked, frame.source, f"{frame.source} pass", f"{frame.source})"):
        try:
            tree = ast.parse(text.strip())
        except (SyntaxError, ValueError):  # a part of a statement that goes over several lines
            continue
        yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _match(pattern: ast.expr, call: ast.expr) -> dict[str, str] | None:
    """Return what the places of a pattern stand for, or None where it does not match."""
    if isinstance(pattern, ast.Name) and pattern.id.isupper():
        text = ast.unparse(call)
        return {pattern.id: text} if len(text) <= _LONGEST else {}
    if isinstance(pattern, ast.Call) and isinstance(call, ast.Call):
        found = _match(pattern.func, call.func)
        if found is None:
            return None
        for place, given in zip(pattern.args, call.args, strict=False):
            part = _match(place, given)
            if part is None:
                return None
            found |= part
        return found
    if isinstance(pattern, ast.Attribute) and isinstance(call, ast.Attribute):
        return _match(pattern.value, call.value) if pattern.attr == call.attr else None
    if isinstance(pattern, ast.Name) and isinstance(call, ast.Name):
        return {} if pattern.id == call.id else None
    if isinstance(pattern, ast.Name) and isinstance(call, ast.Attribute):
        return {} if pattern.id == call.attr else None  # DataLoader, torch.utils.data.DataLoader
    return None
