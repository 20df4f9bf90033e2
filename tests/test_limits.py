"""What a file may cost: what is legitimate passes, what would take for ever does not."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.errors import DamagedError
from luthier.files.limits import ALLOWANCE, Broken, Budget, Keys
from luthier.files.mapped import Held
from luthier.files.pickles.reader import read_pickle
from luthier.files.pickles.rebuild import Storage

TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x05\0\0\0KEY"
    b"X\x03\0\0\0cpuK\x01tQK\x00K\x01\x85q\x01K\x01\x85q\x02\x89ccollections\nOrderedDict\n)Rtq\x03R"
)


def spent(content: bytes) -> tuple[Any, int]:
    budget = Budget.of_size(len(content), "large.pkl")
    return read_pickle(content, budget).value, budget.spent


def test_a_million_floats_are_within_the_limits() -> None:
    numbers = [n / 7 for n in range(1_000_000)]
    found, cost = spent(pickle.dumps(numbers, 2))
    assert found == numbers
    assert cost >= 32 * len(numbers)  # no less than what they take


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_vocabulary_is_within_the_limits(protocol: int) -> None:
    words = {f"word{n}": n for n in range(100_000)}
    pairs = {(f"w{n}", f"o{n % 1000}"): n for n in range(10_000)}
    found, _ = spent(pickle.dumps([words, pairs], protocol))
    assert found == [words, pairs]


def test_the_account_forgets_what_is_gone() -> None:
    storage = Storage(Held(bytearray(4)), "float32")
    call = b"".join(
        f"X\x05\0\0\0{n:05d}".encode() + TENSOR.replace(b"KEY", b"%05d" % n) for n in range(20_000)
    )
    content = b"\x80\x02}(" + call + b"u."
    budget = Budget.of_size(len(content), "large.pkl")
    found = read_pickle(content, budget, lambda _: storage).value
    assert len(found) == 20_000
    assert found["00007"].spec.shape == (1,)
    assert budget.spent < 400 * len(found)


def test_a_budget_says_whose_it_is() -> None:
    budget = Budget.of_size(100, "weights.pt")
    budget.spend(ALLOWANCE)
    budget.check(100)
    with pytest.raises(DamagedError, match=r"weights.pt describes objects .* 58,720,356 bytes"):
        budget.check(101)
    budget.spend(100)
    with pytest.raises(DamagedError, match="more than"):
        budget.spend(1)


LEAVES = st.text() | st.integers() | st.floats(allow_nan=False) | st.complex_numbers() | st.none()
KEYS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4)
)


@given(st.lists(KEYS, max_size=60))
def test_keys_that_nobody_chose_to_collide_are_admitted_as_they_are(found: list[Any]) -> None:
    keys = Keys(Budget.of_size(0, "f"))
    assert all(a is b for a, b in zip(keys.admit_all(found, 0), found, strict=True))


@pytest.mark.parametrize(
    "chosen",
    [
        lambda n: ((1 << 61) - 1) * n,
        lambda n: (((1 << 61) - 1) * n, "a"),
        lambda n: complex(1_000_003 * n, -n),
        lambda n: frozenset({((1 << 61) - 1) * n}),
    ],
)
def test_keys_chosen_to_have_one_hash_are_refused(chosen: Any) -> None:
    keys = Keys(Budget.of_size(1 << 20, "f"))
    with pytest.raises(Broken, match="same hash"):
        keys.admit_all([chosen(n) for n in range(2, 200)], 1 << 20)


def test_the_same_key_in_many_dicts_is_no_collision() -> None:
    keys = Keys(Budget.of_size(1 << 20, "f"))
    keys.admit_all([(1, "a")] * 10_000, 1 << 20)


@pytest.mark.parametrize("key", [[], ([],), {}, (set(),), bytearray(), slice(1), ((({},),),)])
def test_what_has_no_hash_is_no_key(key: Any) -> None:
    with pytest.raises(Broken, match="no hash"):
        Keys(Budget.of_size(0, "f")).admit(key, 0)


def test_a_key_that_takes_exponential_time_is_refused_before_it_is_hashed() -> None:
    key: Any = ()
    for _ in range(45):
        key = (key, key)
    with pytest.raises(Broken, match="more than 1000 values"):
        Keys(Budget.of_size(0, "f")).admit(key, 0)
    key = ()
    for _ in range(60):
        key = (key,)
    with pytest.raises(Broken, match="deeper than 50"):
        Keys(Budget.of_size(0, "f")).admit(key, 0)
