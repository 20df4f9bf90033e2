"""A program that leases what the stand-in driver reports, for the tests of leases.

    python leasing.py FOLDER PROOFS COUNT HOLD [SHARE]

It prints what it got, holds it for HOLD seconds or until its input ends ("-"), and proves that it
holds it alone by locks of its own in PROOFS, which nobody else may have.

``LEASING_AS`` has the number of the user that it becomes, once all is imported that it needs.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from pathlib import Path

from luthier.accelerators import Leases, Request
from luthier.accelerators.launch import look


def main(folder: str, proofs: str, count: str, hold: str, share: str = "") -> None:
    request = Request(int(count), share=int(share) if share else None)
    lease = Leases(Path(folder)).acquire(look, request, wait=600)
    held = []
    for accelerator in lease.accelerators:
        descriptor = os.open(Path(proofs) / accelerator.uuid, os.O_RDWR | os.O_CREAT, 0o666)
        kind = fcntl.LOCK_SH if share else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)  # BlockingIOError: two have it
        held.append(descriptor)
    print(*(a.uuid for a in lease.accelerators), flush=True)
    if hold == "-":
        sys.stdin.read()
    else:
        time.sleep(float(hold))
    for descriptor in held:
        os.close(descriptor)
    lease.release()


if __name__ == "__main__":
    if "LEASING_AS" in os.environ:
        user = int(os.environ["LEASING_AS"])
        os.umask(0o077)
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    main(*sys.argv[1:])
