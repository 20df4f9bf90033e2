"""``luthier inspect``: what a person and a program are told of a file, at little cost."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import luthier
from luthier.cli.main import main
from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files import tensors
from luthier.files.entries import TensorEntry
from luthier.files.mapped import Held
from luthier.values import TensorSpec
from luthier.weights import inspected, nametree


def saved(content: Any, folder: Path, name: str = "file.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 4, bias=False)
        self.blocks = nn.Sequential(*(Block() for _ in range(12)))
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.embed.weight


# --- for a person -----------------------------------------------------------------------------


def test_a_checkpoint_is_told_at_a_glance(tmp_path: Path) -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.embed(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    content = {
        "pytorch-lightning_version": "2.6.0",
        "epoch": 3,
        "state_dict": model.state_dict(),
        "ema": {"state_dict": model.state_dict()},
        "optimizer_states": [optimizer.state_dict()],
    }
    path = saved(content, tmp_path)
    lines = str(luthier.inspect(path)).splitlines()
    assert lines[0] == str(path)
    assert re.fullmatch(r"  torch, \d+\.\d kB, written by Lightning 2\.6\.0", lines[1])
    assert "\n".join(lines[4:]) == (
        "Weights, the best first\n"
        "  state_dict      50 tensors  368 elements  1.5 kB  float32\n"
        "    tied: head.weight = embed.weight\n"
        "  ema.state_dict  50 tensors  368 elements  1.5 kB  float32\n"
        "    an average over the training\n"
        "    tied: head.weight = embed.weight\n"
        "\n"
        "Tensors of state_dict\n"
        "  embed.weight                 float32[4, 4]        64 B\n"
        "  blocks.(0-11).norm.weight    12 x float32[4]     192 B\n"
        "  blocks.(0-11).norm.bias      12 x float32[4]     192 B\n"
        "  blocks.(0-11).linear.weight  12 x float32[4, 4]  768 B\n"
        "  blocks.(0-11).linear.bias    12 x float32[4]     192 B\n"
        "  head.weight                  float32[4, 4]        64 B\n"
        "\n"
        "Optimizers, which are no weights\n"
        "  optimizer_states.0  step, exp_avg, exp_avg_sq of 1 parameter, 132 B\n"
        "\n"
        "Beside them\n"
        "  pytorch-lightning_version  '2.6.0'\n"
        "  epoch                      3"
    )


def test_a_module_is_shown_with_its_architecture_and_its_code_by_name(tmp_path: Path) -> None:
    found = luthier.inspect(saved({"model": Net()}, tmp_path))
    text = str(found)
    assert f"  {__name__}.Net\n  {__name__}.Block\n" in text
    assert "(0-11): 12 x Block(\n" in text
    assert "Architecture of model.(module)\n  Net(\n" in text
    assert [where for where, _ in found.modules] == ["model.(module)"]


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker} # \x1b[31m",)


def test_code_in_a_file_is_named_first_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"state_dict": nn.Linear(2, 2).state_dict(), "x\x1b[2J": Evil(tmp_path / "marker")}
    path = saved(content, tmp_path)
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    name = f"{os.system.__module__}.system"
    assert re.search(rf"SUSPICIOUS[^\n]*\n  would have run {name}\('touch ", text)
    assert text.index("SUSPICIOUS") < text.index("Weights")
    assert "\x1b" not in text
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("tensors_in_it", [1, 3_000])
def test_lines_are_short_and_few_and_all_of_it_can_be_had(
    tensors_in_it: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [
        f"{'module.' * 9}layer{chr(97 + i % 26) * (i // 26 + 1)}.w" for i in range(tensors_in_it)
    ]
    content = {
        "state_dict": {name: torch.zeros(1, 1, 1, 1) for name in names},
        **{f"value {i}": "x" * 200 for i in range(50)},
    }
    path = saved(content, tmp_path)
    lines = str(luthier.inspect(path)).splitlines()
    assert len(lines) < 75
    assert max(map(len, lines[1:])) <= 80
    assert "  … and 40 more (--all lists them)" in lines
    assert main(["inspect", "--all", str(path)]) == 0
    everything = capsys.readouterr().out
    assert all(name in everything for name in names)
    assert "more (--all" not in everything


def test_a_model_file_of_luthier_says_what_it_is(tmp_path: Path) -> None:
    described = {"format": 1, "luthier": "0.1", "architecture": "x/y", "classes": ["ant", "bee"]}
    tensors.write(tmp_path / "model", {"w": torch.zeros(2)}, described)
    text = str(luthier.inspect(tmp_path / "model"))
    assert "safetensors" in text
    assert "written by luthier 0.1" in text
    assert "  classes       ['ant', 'bee']" in text


def test_a_file_without_weights_says_so(tmp_path: Path) -> None:
    found = luthier.inspect(saved({"epoch": 3, "names": ["a"]}, tmp_path))
    assert found.weights == ()
    assert "No weights in it" in str(found)
    assert "  epoch  3" in str(found)


def test_sizes_are_written_as_people_do() -> None:
    numbers = [0, 999, 1_000, 13_600_000, 999_949, 999_950, 10**10, 5 * 10**15]
    assert [inspected.size(number) for number in numbers] == [
        "0 B", "999 B", "1.0 kB", "13.6 MB", "999.9 kB", "1.0 MB", "10.0 GB", "5,000.0 TB",
    ]  # fmt: skip


NAMES = st.lists(st.text("ab12.", min_size=1, max_size=8), min_size=1, max_size=40, unique=True)


@given(NAMES, st.integers(1, 30))
def test_rows_stand_for_every_tensor_once(names: list[str], most: int) -> None:
    entries = {
        name: TensorEntry(TensorSpec((len(name),), "uint8"), Held(bytearray(len(name))))
        for name in names
    }
    found = nametree.rows(entries, most)
    assert sum(row.count for row in found) == len(entries)
    assert sum(row.nbytes for row in found) == sum(map(len, names))
    deepest = nametree.rows(entries, 1_000)
    assert not any(row.is_group and len(row.entries) > 1 for row in deepest)


# --- for a program ----------------------------------------------------------------------------


def test_json_is_one_object_with_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Upsample(scale_factor=float("inf")))
    path = saved({"model": model, "loss": torch.tensor(1.0), "epoch": float("nan")}, tmp_path)
    assert main(["inspect", "--json", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found == luthier.inspect(path).as_dict()
    assert found["kind"] == "torch"
    assert found["bytes"] == path.stat().st_size
    assert found["weights"] == [
        {
            "where": "model.(module)",
            "note": "the module was pickled whole: torch.nn.modules.container.Sequential",
            "tensors": [
                {
                    "name": "0.weight",
                    "dtype": "float32",
                    "shape": [3, 2],
                    "bytes": 24,
                    "device": "cpu",
                },
                {"name": "0.bias", "dtype": "float32", "shape": [3], "bytes": 12, "device": "cpu"},
            ],
        }
    ]
    parts = found["modules"][0]["parts"]
    assert parts[1]["attributes"] == {"in_features": 2, "out_features": 3}
    assert parts[2]["attributes"]["scale_factor"] == "inf"
    assert found["values"] == {"epoch": "nan"}


def test_a_file_that_is_not_there_or_damaged_or_of_no_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("hello")
    path = saved(nn.Linear(2, 2).state_dict(), tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    for wrong, error, status in (
        (tmp_path / "no", UnsupportedFileError, 2),
        (tmp_path / "text", UnsupportedFileError, 2),
        (path, DamagedError, 1),
    ):
        with pytest.raises(error, match=re.escape(str(wrong))):
            luthier.inspect(wrong)
        assert main(["inspect", str(wrong)]) == status
    assert "Traceback" not in capsys.readouterr().err


# --- what it costs ----------------------------------------------------------------------------

COST = """
import resource, sys, time
from luthier.cli.main import main
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
status = main(["inspect", *sys.argv[1:]])
seconds = time.perf_counter() - started
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
heavy = {"torch", "numpy", "matplotlib", "safetensors"} & set(sys.modules)
print(status, heavy or "light", int(grown), seconds, file=sys.stderr)
"""


def cost(*arguments: str) -> tuple[list[str], str]:
    command = [sys.executable, "-c", COST, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stderr.split(), done.stdout


def large_safetensors(path: Path, total: int) -> None:
    """Write a file of ``total`` bytes of tensors that takes no room on the disk."""
    each = 4096 * 4096 * 2
    header = {
        f"model.layers.{i}.weight": {
            "dtype": "BF16", "shape": [4096, 4096], "data_offsets": [i * each, (i + 1) * each],
        }
        for i in range(total // each)
    }  # fmt: skip
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + len(header) * each)


def test_ten_gigabytes_are_not_read_and_need_neither_torch_nor_numpy(tmp_path: Path) -> None:
    large_safetensors(tmp_path / "large", 10 * 10**9)
    (status, weight, grown, _), out = cost(str(tmp_path / "large"))
    assert (status, weight) == ("0", "light")
    assert int(grown) < 64
    assert "model.layers.(0-297).weight  298 x bfloat16[4096, 4096]  10.0 GB" in out


@pytest.mark.parametrize("options", [[], ["--json"], ["--all"]])
def test_a_zip_file_of_torch_needs_neither_torch_nor_numpy(
    options: list[str], tmp_path: Path
) -> None:
    path = saved({"model": Net(), "optimizer": {"state": {}, "param_groups": []}}, tmp_path)
    (status, weight, _, _), out = cost(*options, str(path))
    assert (status, weight) == ("0", "light")
    assert "blocks" in out
