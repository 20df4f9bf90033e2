"""What a pickle loader would have run of a file's references. Nothing here runs or imports them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from luthier.files.entries import Archive, Global, Record, children
from luthier.files.pickles.rebuild import KNOWN
from luthier.files.wording import plain, shown

# Packages with functions that reach the machine: files, processes, the net, or other code.
_REACHING = """
    os posix nt subprocess sys socket shutil ctypes _ctypes pickle _pickle cPickle dill cloudpickle
    joblib importlib imp runpy pkgutil zipimport webbrowser pty commands code codeop bdb pdb timeit
    cProfile profile trace pydoc pip setuptools distutils ensurepip venv http urllib urllib2
    requests aiohttp httpx ftplib smtplib telnetlib poplib imaplib xmlrpc asyncio multiprocessing
    threading _thread signal marshal shelve tempfile glob platform getpass inspect gc atexit sqlite3
    mmap io _io fileinput types idlelib lib2to3 logging doctest test unittest antigravity this cffi
    pexpect paramiko fabric IPython
"""
_DANGEROUS = frozenset(_REACHING.split())
_BUILTINS = """
    eval exec compile __import__ getattr setattr delattr open input breakpoint globals locals vars
    apply execfile file reload exit quit help __build_class__
"""
_FUNCTIONS = """
    functools.reduce numpy.f2py.diagnose.run_command numpy.load operator.attrgetter
    numpy.testing._private.utils.runstring operator.methodcaller pandas.read_pickle torch.hub.load
    torch.jit.load torch.load torch.serialization.load torch.utils.cpp_extension.load
    torch.utils.cpp_extension.load_inline torch.utils.model_zoo.load_url
"""
_DANGEROUS_BUILTINS = frozenset(_BUILTINS.split())
_DANGEROUS_FUNCTIONS = frozenset(_FUNCTIONS.split())
# torch's own, which compile Python source that is in the file.
_COMPILING = """
    torch.fx.graph_module.reduce_graph_module torch.fx.graph_module.reduce_package_graph_module
    torch.fx.graph_module.reduce_deploy_graph_module
"""
_COMPILED = frozenset(_COMPILING.split())
# How functions begin that only build a tensor, an array or a generator from plain values.
_REBUILDING = ("_rebuild_", "_reconstruct", "_mareconstruct", "_ufunc_reconstruct", "__")
# What anybody's loader imports anyway; their classes are data.
_ORDINARY = """
    torch numpy collections builtins __builtin__ copyreg copy_reg _codecs datetime pathlib argparse
    enum decimal fractions uuid omegaconf functools operator typing __torch__
"""
_FAMILIAR = frozenset(_ORDINARY.split())
_HOLDERS = (dict, list, tuple, set, frozenset, Record)
_END = object()


def suspicious(archive: Archive) -> tuple[str, ...]:
    """Say what in a file a pickle loader would have run or imported, the worst first.

    Such as ``would have run os.system('touch x')``, ``refers to builtins.eval`` and ``code by
    name that a pickle loader would have imported: mypackage.Net``. Classes of torch, numpy and
    Python's own containers are not listed.
    """
    references = dict.fromkeys(archive.globals)
    run = {reference for reference, called in references if _is_run(reference, called)}
    found: dict[str, None] = {}
    told: set[Global] = set()
    if run:
        for record in _records(archive.content):
            if record.made_by in run:
                told.add(record.made_by)
                found[_call(record)] = None
    for reference, called in sorted(references, key=lambda item: item[0] not in run):
        name = plain(str(reference))
        if reference in run:
            said = f"would have run {name}" if called else f"refers to {name}"
            found |= {} if reference in told else {said: None}
        elif reference.module.partition(".")[0] not in _FAMILIAR:
            found[f"code by name that a pickle loader would have imported: {name}"] = None
    return tuple(found)


def is_dangerous(reference: Global) -> bool:
    """Tell whether a reference is to what could reach beyond the program that loads the file."""
    root = reference.module.partition(".")[0]
    # A dotted name walks through attributes: "path.os.system" of a harmless module.
    *through, last = reference.name.split(".")
    builtin = root in ("builtins", "__builtin__", "__builtins__") or bool(through)
    return (
        root in _DANGEROUS
        or str(reference) in _DANGEROUS_FUNCTIONS
        or (builtin and last in _DANGEROUS_BUILTINS)
        or not _DANGEROUS.isdisjoint(through)
    )


def _is_run(reference: Global, called: bool) -> bool:
    return (
        is_dangerous(reference)
        or str(reference) in _COMPILED
        or (called and _is_odd_function(reference))
    )


def _is_odd_function(reference: Global) -> bool:
    """Tell whether it is a function of torch or numpy, or a method, that no file of weights calls.

    There are some that run what they are given, in every release others.
    """
    root = reference.module.partition(".")[0]
    through, _, last = reference.name.rpartition(".")
    return (
        (root in ("torch", "numpy") or (through != "" and root in _FAMILIAR))
        and last.lstrip("_")[:1].islower()  # else it is a class
        and not last.startswith(_REBUILDING)
        and reference.module != "torch.jit._pickle"  # of TorchScript's lists
        and reference not in KNOWN
    )


def _records(content: Any) -> Iterator[Record]:
    """Give every record in a tree, each once, in order."""
    seen: set[int] = set()
    waiting: list[Iterator[Any]] = [iter((content,))]
    while waiting:
        value = next(waiting[-1], _END)
        if value is _END:
            waiting.pop()
        elif isinstance(value, _HOLDERS) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Record):
                yield value
            waiting.append(item for _, item in children(value))


def _call(record: Record) -> str:
    """Say what a record would have been, its arguments shortened."""
    name = plain(str(record.made_by), 80)
    if str(record.made_by) in _COMPILED:
        return f"would have compiled Python source that is in the file ({name})"
    given = [shown(value, 60) for value in record.arguments[:5]]
    given += [f"{plain(key, 30)}={shown(value, 60)}" for key, value in record.keywords.items()][:5]
    return "would have run " + plain(f"{name}({', '.join(given)})")
