"""Another format's bytes before the first entry, as in self-extracting archives: two files in one.

The first entry begins with the file.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import central_header, end, local_header, payload, torch_parts, write


def build(folder: Path, marker: Path) -> Path:
    before = b"PK\x03\x04" + b"#!/bin/sh\n"
    content, directory = before, b""
    parts = torch_parts(payload(marker))
    for part in parts:
        directory += central_header(part, len(content))
        content += local_header(part) + part.content
    return write(folder, content + directory + end(len(parts), len(directory), len(content)))
