"""A text encoded by a codec of the file's choosing, again and again.

Only the encodings that pickles use are known, and what they give is on the account.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Called, Raw, opcodes, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    text = b"X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20) + b"q\xc8"
    calls = opcodes(Called("_codecs", "encode", Raw(b"h\xc8"), "latin1")) * 1000
    zipped = opcodes(Called("_codecs", "encode", b"x", "zlib"))
    return write(folder, pickled(Raw(text + zipped + calls)))
