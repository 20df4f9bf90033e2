"""What a pickle loader would have run of a file's references. Nothing here runs or imports them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from luthier.files.entries import Archive, Global, Record, walk
from luthier.files.wording import plain, shown

# Packages with functions that reach the machine: files, processes, the net, or other code.
_DANGEROUS = frozenset(
    """
    os posix nt subprocess sys socket shutil ctypes _ctypes pickle _pickle cPickle dill cloudpickle
    joblib importlib imp runpy pkgutil zipimport webbrowser pty commands code codeop bdb
    pdb timeit cProfile profile trace pydoc pip setuptools distutils ensurepip venv http urllib
    urllib2 requests aiohttp httpx ftplib smtplib telnetlib poplib imaplib xmlrpc asyncio
    multiprocessing threading _thread signal marshal shelve tempfile glob platform getpass inspect
    gc atexit sqlite3 mmap io _io fileinput types idlelib lib2to3 logging doctest test unittest
    antigravity this cffi pexpect paramiko fabric IPython
    """.split()
)
_DANGEROUS_NAMES = frozenset(
    f"{module}.{name}"
    for module in ("builtins", "__builtin__", "__builtins__")
    for name in """
    eval exec compile __import__ getattr setattr delattr open input breakpoint globals locals vars
    apply execfile file reload exit quit help __build_class__
    """.split()
) | {
    "functools.reduce",
    "numpy.f2py.diagnose.run_command",
    "numpy.load",
    "numpy.testing._private.utils.runstring",
    "operator.attrgetter",
    "operator.methodcaller",
    "pandas.read_pickle",
    "torch.hub.load",
    "torch.jit.load",
    "torch.load",
    "torch.serialization.load",
    "torch.utils.cpp_extension.load",
    "torch.utils.cpp_extension.load_inline",
    "torch.utils.model_zoo.load_url",
}
# torch's own, which compile Python source that is in the file.
_COMPILED = frozenset(
    {
        "torch.fx.graph_module.reduce_graph_module",
        "torch.fx.graph_module.reduce_package_graph_module",
        "torch.fx.graph_module.reduce_deploy_graph_module",
    }
)
# What anybody's loader imports anyway; their classes are data.
_FAMILIAR = frozenset(
    """
    torch numpy collections builtins __builtin__ copyreg copy_reg _codecs datetime pathlib argparse
    enum decimal fractions uuid omegaconf functools operator typing
    """.split()
)


def suspicious(archive: Archive) -> tuple[str, ...]:
    """Say what in a file a pickle loader would have run or imported, the worst first.

    Such as ``would have run os.system('touch x')``, ``refers to builtins.eval`` and ``code by
    name that a pickle loader would have imported: mypackage.Net``. Classes of torch, numpy and
    Python's own containers are not listed.
    """
    worst = list(dict.fromkeys(_calls(archive.content)))
    told = {str(record.made_by) for record in _records(archive.content) if _is_run(record.made_by)}
    others: list[str] = []
    for reference, called in dict.fromkeys(archive.globals):
        name = plain(str(reference))
        if _is_run(reference):
            if str(reference) not in told:
                worst.append(f"would have run {name}" if called else f"refers to {name}")
        elif reference.module.partition(".")[0] not in _FAMILIAR:
            others.append(f"code by name that a pickle loader would have imported: {name}")
    return tuple([*worst, *others])


def is_dangerous(reference: Global) -> bool:
    """Tell whether a reference is to what could reach beyond the program that loads the file."""
    root = reference.module.partition(".")[0]
    # A dotted name walks through attributes: os.path's "os.system".
    steps = reference.name.split(".")
    return (
        root in _DANGEROUS
        or str(reference) in _DANGEROUS_NAMES
        or any(step in _DANGEROUS for step in steps[:-1])
        or f"builtins.{steps[-1]}" in _DANGEROUS_NAMES
        and len(steps) > 1
    )


def _is_run(reference: Global) -> bool:
    return is_dangerous(reference) or str(reference) in _COMPILED


def _records(content: Any) -> Iterator[Record]:
    return (value for _, value in walk(content) if isinstance(value, Record))


def _calls(content: Any) -> Iterator[str]:
    for record in _records(content):
        if str(record.made_by) in _COMPILED:
            yield f"would have compiled Python source in the file ({plain(str(record.made_by))})"
        elif is_dangerous(record.made_by):
            yield f"would have run {_call(record)}"


def _call(record: Record) -> str:
    """Write a call as Python would, its arguments shortened."""
    given = [shown(value, 60) for value in record.arguments]
    given += [f"{plain(key, 30)}={shown(value, 60)}" for key, value in record.keywords.items()]
    return plain(f"{plain(str(record.made_by), 80)}({', '.join(given[:5])})", 200)
