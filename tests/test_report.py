"""Reports: numbers with their uncertainty, lines for pipes, a bar for terminals, pictures."""

from __future__ import annotations

import math
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from luthier.report import Console, draw_comparison, draw_curves, epoch_line, read_metrics, table
from luthier.values import Proportion, Score, Step, Tally

FIRST, SECOND = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
TRAINING, VALIDATION = FIRST, SECOND


def step(batch: int, images: int = 4) -> Step:
    return Step(
        epoch=1, batch=batch, step=batch, loss=0.5, correct=3, images=images, lr=0.1, stepped=True
    )


def records(epochs: int, better: float = 0.0) -> list[dict[str, Any]]:
    """What a run of two batches an epoch writes."""
    made: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        facts = {"epoch": epoch, "lr": 0.1, "loss": 2 / epoch - better, "accuracy": 1 - 1 / epoch}
        made += [{"kind": "step", "iteration": 2 * epoch - i, **facts} for i in (1, 0)]
        made.append({"kind": "train", "iteration": 2 * epoch, **facts, "accuracy": 0.05})
        made.append({"kind": "val", "iteration": 2 * epoch, **facts, "loss": facts["loss"] + 0.5})
    return made


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as opened:
        assert opened.format == "PNG"
        return np.asarray(opened.convert("RGB"))


def differ(a: Path, b: Path) -> bool:
    return not np.array_equal(pixels(a), pixels(b))


def drawn(path: Path, colour: tuple[int, int, int]) -> int:
    """Return how many pixels have a colour."""
    return int((pixels(path) == colour).all(axis=-1).sum())


def through_a_pipe(talk: Any) -> str:
    """Return what a console writes into a real pipe."""
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8", newline="") as out:
        with os.fdopen(writing, "w", encoding="utf-8", newline="") as stream:
            talk(Console(stream))
        return out.read()


def on_a_terminal(talk: Any, columns: int = 120) -> str:
    """Return what a console writes to a real pseudo-terminal."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(slave, "w", encoding="utf-8") as stream:
        talk(Console(stream))
    return b"".join(_chunks(master)).decode()


def _chunks(master: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(master, 65536):
            yield chunk
    except OSError:  # Linux tells the end of a terminal so
        pass
    finally:
        os.close(master)


def an_epoch(console: Console) -> None:
    console.say("device cpu")
    console.start(images=16, done=0)
    tally = Tally()
    for batch in range(1, 4):
        tally = tally.add(0.5, 3, 4)
        console.step(step(batch), tally, epochs=2)
    console.say("a line above the bar")
    console.stop()
    console.say("done")


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (147, 153, 0.9171, 0.9819),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Statistics in Medicine 17:857, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_the_interval_is_wilsons(correct: int, total: int, low: float, high: float) -> None:
    found = Proportion(correct, total).interval()
    assert found == pytest.approx((low, high), abs=0.00005)


def test_nothing_is_known_of_no_images() -> None:
    assert Proportion(0, 0).interval() == (0.0, 1.0)
    assert math.isnan(Proportion(0, 0).value)
    assert math.isnan(Tally().loss)


def test_a_proportion_prints_with_its_counts_and_interval() -> None:
    said = str(Proportion(147, 153))
    assert said == "96.08 % (147 of 153 images, 95 % interval 91.7 to 98.2 %)"


@settings(deadline=None)
@given(st.integers(1, 10**6), st.data())
def test_the_interval_contains_the_proportion(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.sampled_from([0, total]) | st.integers(0, total))
    low, high = Proportion(correct, total).interval()
    assert 0.0 <= low <= correct / total <= high <= 1.0
    assert low < high


@given(st.integers(0, 100), st.integers(1, 100))
def test_more_images_narrow_the_interval(correct: int, more: int) -> None:
    low, high = Proportion(correct, correct + more).interval()
    lower, higher = Proportion(4 * correct, 4 * (correct + more)).interval()
    assert higher - lower < high - low


def test_a_score_is_better_with_more_right_and_then_with_less_loss() -> None:
    score = Score(3, 0.5, Proportion(7, 10))
    assert score.better_than(None)
    assert score.better_than(Score(1, 0.1, Proportion(6, 10)))
    assert score.better_than(Score(1, 0.6, Proportion(7, 10)))
    assert not score.better_than(Score(1, 0.5, Proportion(7, 10)))
    assert not score.better_than(Score(1, 0.4, Proportion(7, 10)))
    assert not score.better_than(Score(1, 9.0, Proportion(8, 10)))


def test_a_score_comes_back_from_its_plain_values() -> None:
    score = Score(3, 0.5, Proportion(147, 153))
    plain = score.as_dict()
    assert Score.from_dict(plain) == score
    assert plain["accuracy"] == 147 / 153
    assert plain["interval95"] == pytest.approx([0.917, 0.982], abs=0.0005)


def test_a_tally_weighs_the_loss_by_images() -> None:
    tally = Tally().add(1.0, 2, 4).add(4.0, 1, 2)
    assert tally.loss == pytest.approx(2.0)
    assert tally.accuracy == Proportion(3, 6)


def test_a_table_is_aligned() -> None:
    rows = [["full", "1.00", "3"], ["discriminative", "0.5", "12"]]
    assert table(["strategy", "loss", "n"], rows).splitlines() == [
        "strategy        loss   n",
        "--------------  ----  --",
        "full            1.00   3",
        "discriminative   0.5  12",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert table(["strategy", "loss"], []) == "strategy  loss\n--------  ----"


def test_a_pipe_gets_plain_lines() -> None:
    assert through_a_pipe(an_epoch) == "device cpu\na line above the bar\ndone\n"


def test_a_terminal_gets_a_bar_with_loss_accuracy_speed_and_time() -> None:
    shown = on_a_terminal(an_epoch)
    bar = r"epoch 2/2:  75%\|[^|]*\| 12/16 \[00:\d\d<00:\d\d, +[\d.]+k?(img/s|s/img), "
    assert re.search(bar + r"loss 0\.5000, accuracy 75\.0 %\]", shown), shown


def test_a_terminal_gets_every_line_and_no_rest_of_the_bar() -> None:
    shown = on_a_terminal(an_epoch)
    assert "a line above the bar\r\n" in shown
    last = shown.split("\n")[-2]
    visible = last.rstrip("\r").split("\r")[-1]
    assert visible == "done"


def test_a_bar_begins_where_the_run_stands() -> None:
    def resumed(console: Console) -> None:
        console.start(images=16, done=8)
        console.advance(4)
        console.say("here")
        console.stop()

    shown = on_a_terminal(resumed)
    assert "| 8/16 " in shown
    assert "| 12/16 " in shown


def test_a_quiet_console_shows_nothing_and_still_logs(tmp_path: Path) -> None:
    def talk(console: Console) -> None:
        console.quiet = True
        console.log_to(tmp_path / "log.txt")
        an_epoch(console)

    assert on_a_terminal(talk) == ""
    assert through_a_pipe(talk) == ""
    lines = ["device cpu", "a line above the bar", "done"]
    assert (tmp_path / "log.txt").read_text().splitlines() == lines * 2


def test_a_console_speaks_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    Console(sys.stderr).say("hello")
    Console().say("again")
    assert capfd.readouterr() == ("", "hello\nagain\n")


def test_the_log_gets_what_was_said_before_and_after(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("of the first part\n")

    def talk(console: Console) -> None:
        console.say("early")
        console.log_to(log)
        assert log.read_text() == "of the first part\nearly\n"
        console.say("late")
        assert log.read_text() == "of the first part\nearly\nlate\n"

    assert through_a_pipe(talk) == "early\nlate\n"


def test_the_log_takes_names_of_any_bytes_and_script(tmp_path: Path) -> None:
    latin = os.fsdecode("Grüße.jpg".encode("latin-1"))  # what os.walk gives of such a file
    console = Console(quiet=True)
    console.log_to(tmp_path / "log.txt")
    console.say(f"left out: {latin}")
    console.say("left out: 写真.jpg")
    first, second = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert first.startswith("left out: Gr")
    assert second == "left out: 写真.jpg"


def test_an_epoch_line_has_all_its_facts() -> None:
    record = {
        "kind": "val",
        "epoch": 3,
        "iteration": 30,
        "loss": 0.123456,
        "accuracy": 147 / 153,
        "lr": 0.00012345,
        "seconds": 1.26,
    }
    assert epoch_line(record, epochs=25, iterations=250) == (
        "val   epoch 3/25  iteration 30/250  loss 0.1235  accuracy 96.08 %  lr 0.000123  1.3 s"
    )
    said = epoch_line(record | {"kind": "train"}, epochs=25, iterations=250)
    assert said.startswith("train epoch 3/25")


def test_metrics_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "step", "loss": 1.0}\n\n{"kind": "val", "loss": 0.5}\n')
    assert read_metrics(path) == [{"kind": "step", "loss": 1.0}, {"kind": "val", "loss": 0.5}]


@pytest.mark.parametrize("epochs", [1, 3])
def test_curves_show_training_and_validation(tmp_path: Path, epochs: int) -> None:
    curves, empty = tmp_path / "curves.png", tmp_path / "empty.png"
    draw_curves(records(epochs), curves, "resnet18, full")
    draw_curves([], empty, "resnet18, full")
    assert pixels(curves).shape == pixels(empty).shape == (840, 960, 3)
    assert drawn(curves, TRAINING) > drawn(empty, TRAINING)
    assert drawn(curves, VALIDATION) > drawn(empty, VALIDATION)


def test_curves_of_a_run_cut_in_its_first_epoch_show_its_batches(tmp_path: Path) -> None:
    steps = [record for record in records(3) if record["kind"] == "step"]
    draw_curves(steps, tmp_path / "steps.png", "cut")
    draw_curves([], tmp_path / "empty.png", "cut")
    assert differ(tmp_path / "steps.png", tmp_path / "empty.png")


def test_the_same_records_give_the_same_picture(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_curves(records(2), tmp_path / name, "again")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_comparison_shows_each_run(tmp_path: Path) -> None:
    curves, empty = tmp_path / "curves.png", tmp_path / "empty.png"
    draw_comparison({"full": records(2), "frozen": records(2, 0.1)}, curves, "digits")
    draw_comparison({"full": [], "frozen": []}, empty, "digits")
    assert pixels(curves).shape == pixels(empty).shape == (840, 960, 3)
    assert drawn(curves, FIRST) > drawn(empty, FIRST)
    assert drawn(curves, SECOND) > drawn(empty, SECOND)


def test_a_comparison_of_nothing_is_a_picture(tmp_path: Path) -> None:
    draw_comparison({}, tmp_path / "comparison.png", "nothing")
    assert pixels(tmp_path / "comparison.png").shape == (840, 960, 3)


def test_a_comparison_leaves_no_run_out(tmp_path: Path) -> None:
    runs = {f"run {i}": records(2, i / 50) for i in range(9)}
    draw_comparison(runs, tmp_path / "nine.png", "many")
    runs.pop("run 8")
    draw_comparison(runs, tmp_path / "eight.png", "many")
    assert differ(tmp_path / "nine.png", tmp_path / "eight.png")
