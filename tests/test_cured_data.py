"""The cure of an error of data and tensors cures it, and the explanation has its facts right."""

from __future__ import annotations

import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

import luthier
from known_errors import Raises, data, tensors
from luthier.explanations import Explanation, Frame, Here, errors_in
from luthier.explanations.catalogue import explain

MODULES = (data, tensors)
# Entries whose code, run where the error was raised, is the user's own call without the error.
CALLS = (
    "samples-that-are-none",
    "samples-of-unequal-length",
    "crop-larger-than-the-image",
    "image-too-large",
    "vit-image-size",
    "view-of-scattered-memory",
    "input-dtype",
    "array-of-foreign-bytes",
    "targets-of-two-dimensions",
    "class-targets-dtype",
    "one-hot-of-integers",
    "mask-with-a-channel",
    "binary-target-size",
    "binary-logits-target-size",
    "binary-targets-dtype",
    "binary-without-sigmoid",
    "loss-that-broadcasts",
    "embedding-of-floats",
    "embedding-index",
    "one-hot-of-another-dtype",
)
CURED = [
    pytest.param(cures, id=f"{name}-{cures.__name__}")
    for module in MODULES
    for name, cures in module.CURED.items()
]
EVERY = {
    name: [pytest.param(raises, id=f"{name}-{raises.__name__}") for raises in several]
    for module in MODULES
    for name, several in module.KNOWN.items()
}


def raised(raises: Callable[[Path], object], folder: Path) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the registry says which
        raises(folder)
    return caught.value


def explained(raises: Callable[[Path], object], folder: Path = Path()) -> Explanation:
    found = luthier.explain(raised(raises, folder), lang="en")
    assert found is not None
    return found


def run_where_raised(error: BaseException, code: str) -> None:
    """Run lines with the names of the call in which the user's mistake is."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [f for f in frames if "known_errors" in f.f_code.co_filename]
    outer = [f for f in own if f.f_code.co_name != "forward"][-1]
    names = {"torch": torch, "nn": nn, "np": np, "PIL": PIL, "transforms": data.transforms}
    exec(code, {**names, **outer.f_globals, **outer.f_locals})  # noqa: S102 - it is the catalogue's


@pytest.mark.parametrize("raises", [case for name in CALLS for case in EVERY[name]])
def test_the_code_is_the_users_own_without_the_error(
    raises: Raises, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", PIL.Image.MAX_IMAGE_PIXELS)
    error = raised(raises, tmp_path)
    found = luthier.explain(error, lang="en")
    assert found is not None
    assert found.code
    run_where_raised(error, found.code)


@pytest.mark.parametrize("cures", CURED)
def test_the_cure_cures(cures: Raises, tmp_path: Path) -> None:
    cures(tmp_path)


@pytest.mark.parametrize("raises", [case for several in EVERY.values() for case in several])
def test_the_same_words_of_others_are_not_explained(
    raises: Raises, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Frame("/home/user/train.py", 12, "check", "raise error", "raise error")
    other = Frame("/usr/lib/python3.12/site-packages/jax/x.py", 3, "f", "raise error", "", True)
    text = "".join(traceback.format_exception(raised(raises, tmp_path)))
    for error in errors_in(text):
        for frames in ((own,), (own, other), (other, own)):
            assert explain([replace(error, frames=frames, before="")], "en", Here()) is None


def a_part_of_a_name(_folder: Path) -> None:
    names = ["ant", "bee"]
    data.first(data.Samples(lambda index: names[index].split("_")[index + 3]))


def a_table(_folder: Path) -> None:
    data.first(data.Samples(lambda _: open("labels.csv")))  # noqa: SIM115


def a_key_of_a_collate_function(_folder: Path) -> None:
    data.first([{"image": 1}], collate_fn=lambda batch: [sample["mask"] for sample in batch])


def a_pickle_in_a_worker(_folder: Path) -> None:
    data.first(data.Samples(lambda _: pickle.dumps(lambda: 0)), num_workers=1)


def a_check_of_ones_own(_folder: Path) -> None:
    images, labels = [1, 2], [1]
    assert len(images) == len(labels), "Size mismatch between tensors"


def a_product_of_numpy(_folder: Path) -> None:
    np.zeros((2, 3)) @ np.zeros((2, 3))


def an_index_of_numpy(_folder: Path) -> None:
    data.first(data.Samples(lambda index: np.zeros(3)[index + 7]))


@pytest.mark.parametrize(
    "raises",
    [
        a_part_of_a_name,
        a_table,
        a_key_of_a_collate_function,
        a_pickle_in_a_worker,
        a_check_of_ones_own,
        a_product_of_numpy,
        an_index_of_numpy,
    ],
)
def test_what_only_looks_alike_is_not_explained(raises: Raises, tmp_path: Path) -> None:
    error = raised(raises, tmp_path)
    assert luthier.explain(error) is None
    assert luthier.explain("".join(traceback.format_exception(error))) is None


@pytest.mark.parametrize("start", ["pass", "torch.multiprocessing.set_start_method('spawn')"])
def test_a_guard_is_what_a_script_lacks(start: str, tmp_path: Path) -> None:
    """A real script with the start method spawn: explained by its text, and cured by the guard."""
    how = "" if start != "pass" else ", multiprocessing_context='spawn'"
    lines = [
        "import torch",
        "from torch.utils.data import DataLoader",
        "def main():",
        f"    {start}",
        "    images = [torch.zeros(3, 8, 8)] * 2",
        f"    next(iter(DataLoader(images, num_workers=1{how})))",
    ]
    script = tmp_path / "train.py"
    said = []
    for last in ("main()", "if __name__ == '__main__': main()"):
        script.write_text("\n".join([*lines, last]), encoding="utf-8")
        said.append(
            subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
        )
    assert said[1].returncode == 0
    found = luthier.explain(said[0].stderr, lang="en")
    assert found is not None
    assert found.name == "missing-main-guard"


def test_an_open_file_is_made_in_the_worker() -> None:
    dataset = data.Samples(int)
    dataset.file = None  # type: ignore[attr-defined]
    pickle.loads(pickle.dumps(dataset))  # noqa: S301 - its own


# What the facts are: by the live program, and by the text alone.


def test_a_layer_is_named_by_its_place_in_the_model() -> None:
    found = explained(tensors.given(tensors.Net(), 2, 3, 8, 8))
    assert "fc (Linear)" in found.cause
    assert "32" in found.cause
    assert "36" in found.cause
    assert "nn.Linear(36, 10)" in found.code


def test_what_was_not_flattened_is_told_from_a_wrong_size() -> None:
    found = explained(tensors.given(tensors.Unflattened(36), 2, 3, 8, 8))
    assert "[2, 4, 3, 3], which was not flattened" in found.cause
    assert "self.fc(torch.flatten(self.body(x), 1))" in found.code
    found = explained(tensors.given(tensors.OneSample(36), 2, 3, 8, 8))
    assert "2 samples of the batch were flattened into one" in found.cause


def test_a_text_names_the_layer_as_its_line_does() -> None:
    error = raised(tensors.given(tensors.Net(), 2, 3, 8, 8), Path())
    found = luthier.explain("".join(traceback.format_exception(error)), lang="en")
    assert found is not None
    assert "self.fc is made for 32 features" in found.cause


@pytest.mark.parametrize(
    ("labels", "says", "code"),
    [
        ([1, 2, 3], "begin at 1 and the model gives 3 scores", "criterion(scores, labels - 1)"),
        ([0, 7], "a label is 7, and the model gives 3 scores", "nn.Linear(features, 8)"),
        ([-1, 1], "the label -1 is negative", ""),
    ],
)
def test_labels_are_compared_with_the_scores(labels: list[int], says: str, code: str) -> None:
    raises = tensors.lost(nn.CrossEntropyLoss(), (len(labels), 3), torch.tensor(labels))
    found = explained(raises)
    assert says in found.cause
    assert code in found.code
    assert f"from {min(labels)} to {max(labels)}" in found.checked[0]


def test_one_score_for_two_classes_is_told() -> None:
    found = explained(tensors.lost(nn.CrossEntropyLoss(), (2, 1), torch.tensor([0, 1])))
    assert "1 score a sample" in found.cause
    assert "BCEWithLogitsLoss" in found.code


def test_a_column_is_told_from_one_hot_rows() -> None:
    column = explained(tensors.lost(nn.CrossEntropyLoss(), (2, 3), torch.zeros(2, 1).long()))
    rows = explained(tensors.lost(nn.CrossEntropyLoss(), (2, 3), torch.eye(4)[:2]))
    assert "labels.squeeze(1)" in column.code
    assert "labels.argmax(1)" in rows.code
    assert "argmax" not in column.code
    assert "squeeze" not in rows.code


@pytest.mark.parametrize(
    ("dtype", "says", "code"),
    [
        (torch.float64, "is given float64", "model(x.float())"),
        (torch.uint8, "is given integers, uint8", "model(x.float() / 255)"),
        (torch.float16, "is given float16", "model(x.to(torch.float32))"),
    ],
)
def test_the_dtype_decides_the_cure(dtype: torch.dtype, says: str, code: str) -> None:
    found = explained(tensors.of_dtype(tensors.Net(36), dtype, 2, 3, 8, 8))
    assert says in found.cause
    assert code in found.code


def test_channels_last_and_grey_are_told_apart() -> None:
    last = explained(tensors.given(tensors.Net(), 2, 8, 8, 3))
    grey = explained(tensors.given(tensors.Net(), 2, 1, 8, 8))
    assert "body.0 (Conv2d)" in last.cause
    assert "model(images.movedim(-1, -3))" in last.code
    assert "1 (L)" in grey.cause
    assert 'convert("RGB")' in grey.code


def test_a_batch_of_one_names_the_layer() -> None:
    found = explained(tensors.one_left_over)
    assert found.cause.startswith("1 (BatchNorm1d) is in training mode")
    assert "drop_last=True" in found.code


def test_an_embedding_is_compared_with_its_indices() -> None:
    layer: Any = nn.Sequential(nn.Embedding(3, 2))
    found = explained(tensors.indices(layer, torch.tensor([1, 5])))
    assert "0 (Embedding) has 3 rows, and the indices go from 1 to 5" in found.cause
    assert "nn.Embedding(6, 2)" in found.code


def test_the_images_size_is_known_where_the_model_starts() -> None:
    found = explained(tensors.given(tensors.Net(), 2, 3, 3, 3))
    assert "images of 3 by 3" in found.cause
    assert "body.2 (MaxPool2d)" in found.cause


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    found = explained(data.truncated_in_a_folder, tmp_path)
    assert "ant.jpg ends before its pixels do" in found.cause


def test_a_signal_is_told_from_an_exit(tmp_path: Path) -> None:
    assert "exit code 3" in explained(data.worker_exits, tmp_path).cause
    assert "SIGKILL" in explained(data.in_a_worker(9), tmp_path).cause


def test_a_workers_own_error_counts_and_not_that_it_ended() -> None:
    found = explained(data.subset_in_a_worker)
    assert "an index of the Subset" in found.cause
