"""Tracebacks are read as they come, names are the user's, and an error is explained where it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

import luthier
from conftest import LENET
from luthier.errors import DamagedError, RecipeError
from luthier.explanations import Frame, errors_in, is_library
from luthier.explanations.names import bind
from luthier.language import columns, fill, folded, language
from luthier.report import Console
from luthier.run import failures
from luthier.run.folder import RunFolder

KEYS = """\
RuntimeError: Error(s) in loading state_dict for Net:
	Missing key(s) in state_dict: "a.weight", "a.bias".
	Unexpected key(s) in state_dict: "module.a.weight", "module.a.bias".
"""
PLAIN = f"""\
Traceback (most recent call last):
  File "/home/me/train.py", line 9, in <module>
    main()
  File "/home/me/train.py", line 5, in main
    self.net.load_state_dict(torch.load(path)["weights"])
  File "/usr/lib/python3/dist-packages/torch/nn/modules/module.py", line 2584, in load_state_dict
    raise RuntimeError(
{KEYS}"""
NOTEBOOK = f"""\
---------------------------------------------------------------------------
RuntimeError                              Traceback (most recent call last)
Cell In[7], line 3
      1 weights = torch.load("best.pt")
      2 net = Net()
----> 3 net.load_state_dict(weights)

File ~/lib/python3.11/site-packages/torch/nn/modules/module.py:2584, in load(self, state)
   2576         error_msgs.insert(0, "x")
   2583 if len(error_msgs) > 0:
-> 2584     raise RuntimeError("Error(s) in")
   2585 return _IncompatibleKeys(missing_keys, unexpected_keys)

{KEYS}"""


def of_rank(rank: int, text: str) -> str:
    return "".join(f"[rank{rank}]: {line}" for line in text.splitlines(keepends=True))


def handled(text: str, between: str) -> str:
    last = (
        'Traceback (most recent call last):\n  File "a.py", line 3, in <module>\n    raise Mine\n'
    )
    return f"{text}\n{between}\n\n{last}a.Mine: no weights\n"


OTHER = 'Traceback (most recent call last):\n  File "b.py", line 1, in f\nKeyError: 2\n'
OF_CHILD = """\
Traceback (most recent call last):
  File "<string>", line 1, in <module>
  File "/usr/lib/python3.11/multiprocessing/spawn.py", line 120, in spawn_main
EOFError: Ran out of input
"""
AND_THEN = "During handling of the above exception, another exception occurred:"
BECAUSE = "The above exception was the direct cause of the following exception:"


@pytest.mark.parametrize(
    ("text", "model"),
    [
        (PLAIN, "self.net"),
        (NOTEBOOK, "net"),
        (of_rank(3, PLAIN), "self.net"),
        (f"epoch 1 loss 0.3\n{PLAIN}", "self.net"),
        (PLAIN.replace("\n", "\r\n"), "self.net"),
        (f"\x1b[31m{PLAIN}\x1b[0m", "self.net"),
        (textwrap.indent(PLAIN, "    "), "self.net"),
        (KEYS, "model"),
        (handled(PLAIN, BECAUSE), "self.net"),
        (f"{PLAIN}Exception ignored in: <function f>\n{OTHER}", "self.net"),
        (f"{PLAIN}{OF_CHILD}", "self.net"),
        (PLAIN.replace("RuntimeError: E", "RuntimeError: \nE"), "self.net"),
    ],
    ids=[
        "Python's", "IPython's", "of a rank", "in a log", "of Windows", "coloured", "indented",
        "its last lines", "a cause", "one ignored since", "a child's since",
        "begins with a line",
    ],
)  # fmt: skip
def test_a_traceback_is_read_as_it_comes(text: str, model: str) -> None:
    found = luthier.explain(text)
    assert found is not None
    assert found.name == "module-prefix"
    assert f"{model}.load_state_dict(bare)" in found.code


@pytest.mark.parametrize(
    "text",
    [
        handled(PLAIN, AND_THEN),
        f'{PLAIN}\nagain\nTraceback (most recent call last):\n  File "b.py", line 1\nKeyError: 2\n',
        f"{KEYS}{'and so on' + chr(10)}" + "epoch 1\n" * 50,
        PLAIN.replace("/usr/lib/python3/dist-packages", "/home/me"),
        "Traceback (most recent call last):\n",
        'Traceback (most recent call last):\n  File "a.py", line 1, in f\n',
    ],
    ids=["handled", "another one since", "a line of a log", "by hand", "no frame", "cut off"],
)
def test_what_did_not_end_the_program_is_not_explained(text: str) -> None:
    assert luthier.explain(text) is None


@example("Traceback (most recent call last):\nA: b")
@example("Original Traceback (most recent call last):\n\n^^^\nB")
@given(
    st.text()
    | st.lists(st.sampled_from([*PLAIN.splitlines(), *NOTEBOOK.splitlines()])).map("\n".join)
)
def test_any_text_is_read(text: str) -> None:
    for raised in errors_in(text):
        assert raised.type
        assert raised.name in raised.type


@pytest.mark.parametrize("ahead", ["", "/home/me/train.py:12: ", "C:\\me\\train.py:12: "])
def test_a_warning_is_read_with_and_without_its_place(ahead: str) -> None:
    said = "Detected call of `lr_scheduler.step()` before `optimizer.step()`. In PyTorch 1.1.0 and"
    found = luthier.explain(f"{ahead}UserWarning: {said} later\n  warnings.warn(\n")
    assert found is not None
    assert found.name == "schedule-before-optimizer"


def test_an_exception_and_its_printed_form_are_the_same() -> None:
    net = nn.Linear(2, 2)
    try:
        net.load_state_dict(nn.DataParallel(net).state_dict())
    except RuntimeError as error:
        live = luthier.explain(error)
        printed = luthier.explain("".join(traceback.format_exception(error)))
    assert live is not None
    assert live == printed
    assert "net.load_state_dict(bare)" in live.code


@pytest.mark.parametrize(
    ("source", "marked", "names"),
    [
        ("net.load_state_dict(sd)", "", ("net", "sd")),
        ("x = self.a[0].load_state_dict(sd, strict=False)", "", ("self.a[0]", "sd")),
        ("with f(net.load_state_dict(sd)):", "", ("net", "sd")),
        ("if net.load_state_dict(sd):", "", ("net", "sd")),
        ("a.load_state_dict(b); c.load_state_dict(d)", "c.load_state_dict(d)", ("c", "d")),
        ("net.load_state_dict(", "", ("net", "state")),
        ("net.load(sd)", "", ("model", "state")),
        (f"net.load_state_dict({'long_name.' * 9}x)", "", ("net", "state")),
        ("", "", ("model", "state")),
    ],
)
def test_names_are_the_users_own(source: str, marked: str, names: tuple[str, str]) -> None:
    frames = [
        Frame("a.py", 1, "f", source, marked),
        Frame("/lib/python3/x.py", 1, "g", "other.load_state_dict(w)", is_library=True),
    ]
    found = bind(["MODEL.load_state_dict(STATE)"], frames)
    assert found == dict(zip(("model", "state"), names, strict=True))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (torch.__file__, True),
        (luthier.__file__, True),
        (json.__file__, True),
        ("<frozen importlib._bootstrap>", True),
        ("C:\\Python311\\Lib\\json\\decoder.py", True),
        ("/home/me/luthier/train.py", False),
        ("train.py", False),
        ("Cell In[3]", False),
    ],
)
def test_what_is_a_librarys_is_told_by_its_path(path: str, expected: bool) -> None:
    assert is_library(path) == expected


def test_an_error_inside_is_the_same_error_with_a_note() -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught, luthier.explaining():
        raise error
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    net = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(RuntimeError) as told_of, luthier.explaining(), luthier.explaining():
        net(torch.ones(1, 2)).sum().backward()
    assert [note.splitlines()[0][:4] for note in told_of.value.__notes__] == ["why "]
    assert "all 2 parameters of net (Linear) are frozen" in " ".join(
        told_of.value.__notes__[0].split()
    )


@pytest.mark.parametrize(
    "said",
    ["CUDA out of memory. Tried to allocate 2.00 GiB", KEYS.partition(": ")[2]],
)
def test_what_is_raised_by_hand_is_not_explained(said: str) -> None:
    with pytest.raises(RuntimeError) as caught, luthier.explaining():
        raise RuntimeError(said)
    assert not hasattr(caught.value, "__notes__")


def test_nothing_inside_is_nothing() -> None:
    with luthier.explaining():
        pass
    with pytest.raises(SystemExit), luthier.explaining():
        sys.exit(3)


@given(
    st.text(st.sampled_from("word 词\uff0c。\uff08“a-b "), max_size=300),
    st.integers(20, 60),
)
def test_lines_are_as_wide_as_they_may_be(text: str, width: int) -> None:
    lines = folded(text, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    for line in lines:
        longest = max((columns(word) for word in line.split()), default=0)
        assert columns(line) <= max(width, longest)
    for line in lines[1:]:
        assert line[:1] not in ("\uff0c", "。", "\uff09")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LUTHIER_LANG": "zh-Hans"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LUTHIER_LANG": "EN"}, "en"),
        ({"LC_MESSAGES": "zh", "LANG": "de_DE"}, "zh"),
        ({"LANG": "zhx"}, "en"),
    ],
)
def test_a_language_is_asked_for_as_it_is_everywhere(
    variables: dict[str, str], expected: str
) -> None:
    assert language(variables) == expected


def test_a_language_that_is_not_spoken_is_refused() -> None:
    with pytest.raises(RecipeError, match="LUTHIER_LANG=fr: expected en"):
        language({"LUTHIER_LANG": "fr"})


def test_the_first_sentence_that_is_known_is_said() -> None:
    sentences = ["{a} and {b}", "{a:.1f} alone", "nothing"]
    assert fill(sentences, {"a": 1, "b": 2}) == "1 and 2"
    assert fill(sentences, {"a": 1, "b": None}) == "1.0 alone"
    assert fill(sentences, {}) == "nothing"
    assert fill("{a}", {}) is None


def command(
    *words: str | Path, text: str | None = None, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "luthier", "explain", *map(str, words)],
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env=os.environ | variables,
        check=False,
    )


def test_the_command_reads_a_file_a_pipe_and_says_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "error.txt").write_text(PLAIN)
    of_file = command("error.txt", cwd=tmp_path)
    assert of_file.returncode == 0
    assert of_file.stdout.startswith("RuntimeError: Error(s) in loading state_dict for Net:\nwhy")
    assert command(text=PLAIN).stdout == of_file.stdout
    assert command("-", text=PLAIN).stdout == of_file.stdout
    long = "epoch 1 loss 0.3\n" * 600_000 + PLAIN
    assert command(text=long).stdout == of_file.stdout
    (tmp_path / "rubbish").write_bytes(bytes(range(256)) * 100)
    assert command("rubbish", cwd=tmp_path).returncode == 1
    unknown = command("-", text="KeyError: 3\n")
    assert unknown.returncode == 1
    assert unknown.stdout == "KeyError: 3\nthis error is not in luthier's catalogue\n"
    nothing = command("-", text="all is well\n")
    assert nothing.returncode == 1
    assert nothing.stdout == "no error in standard input\n"
    missing = command("nix", cwd=tmp_path)
    assert missing.returncode == 2
    assert "there is no file or run nix" in missing.stderr
    told_json = json.loads(command("--json", "error.txt", cwd=tmp_path).stdout)
    assert told_json["explanation"]["name"] == "module-prefix"
    assert told_json["error"]["type"] == "RuntimeError"
    empty = json.loads(command("--json", "-", text="").stdout)
    assert empty == {"error": None, "explanation": None}


def test_chinese_is_printed_where_the_terminal_has_it_and_elsewhere_too() -> None:
    said = command("-", text=PLAIN, LUTHIER_LANG="zh", PYTHONIOENCODING="utf-8")
    assert "原因" in said.stdout
    ascii_only = command("-", text=PLAIN, LUTHIER_LANG="zh", PYTHONIOENCODING="ascii")
    assert ascii_only.returncode == 0, ascii_only.stderr
    assert "\\u539f\\u56e0" in ascii_only.stdout


class Broken(nn.Module):
    """A model whose second pass fails as a forgotten dimension does."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3, num_classes)
        self.passes = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        if self.training and self.passes > 2:
            self.load_state_dict(nn.DataParallel(self).state_dict())
        return self.fc(images.mean((2, 3)))


def test_a_run_that_fails_says_why_until_it_goes_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    knobs = {"image_size": 32, "weights": "none", "epochs": 1, "workers": 0, "batch_size": 4}
    quiet = Console(quiet=True)
    runs = tmp_path / "runs"
    luthier.finetune(photos, out=runs / "good", model=LENET, console=quiet, **knobs)
    none = command(cwd=tmp_path)
    assert none.returncode == 2
    assert "no run in runs has failed" in none.stderr
    with pytest.raises(RuntimeError, match="Missing key"):
        luthier.finetune(
            photos, out=runs / "bad", model="test_explain:Broken", console=quiet, **knobs
        )
    for words in ((), ("runs/bad",)):
        said = command(*words, cwd=tmp_path)
        assert said.returncode == 0, said.stderr
        assert "self.load_state_dict(bare)" in said.stdout
    assert "原因" in command(cwd=tmp_path, LUTHIER_LANG="zh", PYTHONIOENCODING="utf-8").stdout
    fine = command("runs/good", cwd=tmp_path)
    assert fine.returncode == 2
    assert "run runs/good has not failed" in fine.stderr

    (runs / "bad" / "failure.json").write_text("[]")
    with pytest.raises(DamagedError, match=r"failure\.json"):
        failures.failure_of(runs / "bad")
    monkeypatch.setattr(nn.DataParallel, "state_dict", lambda wrapped: wrapped.module.state_dict())
    luthier.resume(runs / "bad", console=quiet)
    assert failures.failure_of(runs / "bad") is None


class NoWords(Exception):  # noqa: N818 - it is one of a user's
    def __str__(self) -> str:
        raise ValueError("it cannot be printed")


def test_what_cannot_be_described_is_raised_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("")
    error = NoWords()
    with pytest.raises(NoWords) as caught, failures.recording(RunFolder(tmp_path)):
        raise error
    assert caught.value is error
    with pytest.raises(NoWords), luthier.explaining():
        raise error


def test_a_command_explains_what_a_users_model_raises(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from test_explain import Broken as Net\n")
    words = ["--model", "mine:Net", "--image-size", "32", "--weights", "none", "--epochs", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "luthier", "finetune", str(photos), "--out", "run", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 1
    assert "RuntimeError: Error(s) in loading state_dict for Broken" in done.stderr
    assert "\nwhy   the keys of the file begin with" in done.stderr
