from __future__ import annotations

from known_errors import Known, Recorded

KNOWN: Known = {}
RECORDED: Recorded = {"cuda-file-on-cpu": ["load_without_device"]}
