"""Class names side by side: which row of a head belongs to which class, and when to leave it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier import vision
from luthier.adapt.classes import check_some, fold, match_classes, plurals, words
from luthier.errors import DoesNotFitError

# As WordNet lists them, with the traps of real lists: a name inside a name, one name twice, two
# names that differ in a capital alone.
WORDNET = (
    "bee eater",
    "ant, emmet, pismire",
    "bee, honeybee",
    "Indian elephant, Elephas maximus",
    "crane",
    "cabbage butterfly",
    "crane",
    "fire engine, fire truck",
    "Cardigan, Cardigan Welsh corgi",
    "cardigan",
    "wolf spider, hunting spider",
    "timber wolf, grey wolf, gray wolf, Canis lupus",
    "ladybug, ladybeetle, lady beetle, ladybird, ladybird beetle",
    "sunglass",
    "sunglasses, dark glasses, shades",
    "television, television system",
)


def matched(*ours: str, theirs: tuple[str, ...] = WORDNET) -> list[tuple[int | None, str]]:
    return [(one.row, one.how) for one in match_classes(ours, theirs).classes]


@pytest.mark.parametrize(
    ("ours", "row", "how"),
    [
        ("ant", 1, "word of 'ant, emmet, pismire'"),
        ("Ants", 1, "plural of a word of 'ant, emmet, pismire'"),
        ("ant, emmet, pismire", 1, "same"),
        ("honeybees", 2, "plural of a word of 'bee, honeybee'"),
        ("Bee_Eaters", 0, "plural"),
        ("cabbage-butterflies", 5, "plural"),
        ("fire_truck", 7, "word of 'fire engine, fire truck'"),
        ("grey wolves", 11, "plural of a word of 'timber wolf, grey wolf, gray wolf, Canis lupus'"),
        ("cardigan", 9, "same"),
        ("cardigans", 9, "plural"),
        ("sunglass", 13, "same"),
        ("sunglasses", 13, "plural"),
        ("TV", 15, "synonym of a word of 'television, television system'"),
        ("elephant", None, ""),
        ("wolf", None, ""),
        ("spider", None, ""),
        ("butterfly", None, ""),
        ("eater", None, ""),
        ("an", None, ""),
        ("crane", None, ""),
        ("cranes", None, ""),
        ("_", None, ""),
    ],
)
def test_one_name(ours: str, row: int | None, how: str) -> None:
    assert matched(ours) == [(row, how)]


def test_whole_names_come_before_words_and_spelling_decides_between_capitals() -> None:
    theirs = ("bee, honeybee", "bee", "Cardigan", "cardigan")
    assert matched("bee", theirs=theirs) == [(1, "same")]
    assert matched("Cardigan", "cardigan", theirs=theirs) == [(2, "same"), (3, "same")]
    assert match_classes(["CARDIGAN"], theirs).ambiguous == ("CARDIGAN",)


def test_ambiguous_names_are_named_and_not_guessed() -> None:
    found = match_classes(["crane", "bee", "honeybee", "ants"], WORDNET)
    assert found.rows == (None, None, None, 1)
    assert found.ambiguous == ("crane", "bee", "honeybee")
    assert found.matched == ("ants",)
    said = str(found)
    assert "1 of 4 classes take a row of 16" in said
    assert "crane fresh, ambiguous: row 4 'crane' and row 6 'crane'" in said
    assert "bee fresh, ambiguous: row 2 'bee, honeybee' fits 'honeybee' too" in said
    assert "ants ← row 1 (plural of a word of 'ant, emmet, pismire')" in said


def test_long_lists_are_told_in_short_and_what_needs_a_look_in_full() -> None:
    names = [f"kind {n}" for n in range(30)]
    unheard = [f"unheard {n}" for n in range(8)]
    ours = ["ants", "cranes", *unheard, *names]
    said = str(match_classes(ours, [*names, "ant", "crane", "crane"])).splitlines()
    assert said[1:8] == [
        *(f"  {n} ← row {i} {n!r} (same)" for i, n in enumerate(names[:6])),
        "  and 24 more of the same name",
    ]
    assert said[8] == "  ants ← row 30 'ant' (plural)"
    assert said[9] == "  cranes fresh, ambiguous: row 31 'crane' and row 32 'crane'"
    assert said[10:] == [*(f"  {n} fresh" for n in unheard[:6]), "  and 2 more fresh"]


def test_synonyms_of_the_callers_own() -> None:
    theirs = ("felis catus", "dog")
    assert match_classes(["cats"], theirs).rows == (None,)
    mine = [["Cat", "felis_catus"]]
    assert match_classes(["cats"], theirs, synonyms=mine).rows == (0,)
    assert match_classes(["automobile"], ["car"], synonyms=mine).rows == (None,)


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("ant", "ants"),
        ("bee", "bees"),
        ("bus", "buses"),
        ("fox", "foxes"),
        ("fly", "flies"),
        ("jay", "jays"),
        ("fish", "fishes"),
        ("finch", "finches"),
        ("potato", "potatoes"),
        ("piano", "pianos"),
        ("mouse", "mice"),
        ("goose", "geese"),
        ("mongoose", "mongooses"),
        ("grey wolf", "grey wolves"),
        ("ox", "oxen"),
        ("leaf", "leaves"),
        ("snowman", "snowmen"),
    ],
)
def test_plurals_match_in_both_directions(one: str, many: str) -> None:
    assert matched(one, theirs=(many,)) == matched(many, theirs=(one,)) == [(0, "plural")]


@pytest.mark.parametrize(
    ("one", "other"),
    [("bra", "brass"), ("as", "a"), ("gas", "ga"), ("goose", "gooses"), ("7", "7s"), ("bu", "bus")],
)
def test_what_only_looks_like_a_plural_is_none(one: str, other: str) -> None:
    assert matched(one, theirs=(other,)) == matched(other, theirs=(one,)) == [(None, "")]


def test_imagenets_classes_match_themselves_and_their_plurals() -> None:
    weights = vision.load("torchvision.models").get_model_weights("mobilenet_v2").DEFAULT
    theirs = weights.meta["categories"]
    same = match_classes(theirs, theirs)
    assert same.rows == tuple(range(1000))
    ours = [sorted(plurals(fold(name)))[0] for name in theirs if plurals(fold(name))]
    of_plurals = match_classes(ours, theirs)
    # "cardigans" has two singulars here, and "sunglasses" is a class of its own.
    assert set(of_plurals.ambiguous) <= {"cardigans", "sunglasses", "sunglasseses"}
    assert len(of_plurals.matched) == len(ours) - len(of_plurals.ambiguous)
    ants = match_classes(["ants", "bees"], theirs)
    assert [theirs[row] for row in ants.rows if row is not None] == ["ant", "bee"]


def test_nothing_taken_is_an_error_that_names_the_nearest() -> None:
    theirs = ["honey bee", "crane", "Crane", "elephant"]
    with pytest.raises(DoesNotFitError) as caught:
        check_some(match_classes(["honeybea", "CRANE"], theirs), theirs, "weights.pth")
    assert "none of the 2 classes" in caught.value.what
    assert "the 4 of weights.pth" in caught.value.what
    assert "honeybea (did you mean 'honey bee'?)" in caught.value.what
    assert "row 1 'crane' and row 2 'Crane'" in caught.value.what
    assert "--head replace" in str(caught.value.cure)
    check_some(match_classes(["elephants"], theirs), theirs, "weights.pth")


# --- properties ---------------------------------------------------------------------------------

# Few words, so that names meet often.
NOUNS = st.sampled_from(["bee", "ant", "bus", "fly", "wolf", "car", "automobile", "tv", "Bee", "o"])
NAMES = st.one_of(
    NOUNS,
    st.builds("{}s".format, NOUNS),
    st.builds("{}es".format, NOUNS),
    st.builds("{}_{}".format, NOUNS, NOUNS),
    st.lists(NOUNS, min_size=2, max_size=3).map(", ".join),
    st.text(alphabet="abe-_ ,Iß", max_size=4),
)
LISTS = st.lists(NAMES, max_size=6)


@given(ours=LISTS, theirs=LISTS)
def test_a_row_is_taken_once_and_only_where_a_whole_name_or_alternative_is_related(
    ours: list[str], theirs: list[str]
) -> None:
    found = match_classes(ours, theirs, synonyms=[["car", "automobile"]])
    taken = [row for row in found.rows if row is not None]
    assert len(taken) == len(set(taken))
    for name, one in zip(ours, found.classes, strict=True):
        assert one.name == name
        assert one.row is None or theirs[one.row] == one.theirs
        assert (one.row is not None) == bool(one.how)
        assert not (one.rivals and one.how)
        if one.row is not None:
            mine, others = ({fold(n), *words(n)} for n in (name, one.theirs))
            assert any(related(a, b) for a, b in itertools.product(mine, others))


def related(one: str, other: str) -> bool:
    def near(a: str, b: str) -> bool:
        return bool(a) and (a == b or a in plurals(b) or b in plurals(a))

    cars = ("car", "automobile")
    return near(one, other) or any(near(one, a) and near(other, b) for a in cars for b in cars)


@given(ours=LISTS, theirs=LISTS, data=st.data())
def test_order_makes_no_difference(ours: list[str], theirs: list[str], data: st.DataObject) -> None:
    rows = match_classes(ours, theirs).rows
    of_ours = data.draw(st.permutations(range(len(ours))))
    of_theirs = data.draw(st.permutations(range(len(theirs))))
    shuffled = match_classes([ours[i] for i in of_ours], [theirs[i] for i in of_theirs]).rows
    there = [None if row is None else of_theirs[row] for row in shuffled]
    assert there == [rows[i] for i in of_ours]


@given(names=st.lists(NAMES, unique_by=fold, max_size=6).filter(lambda n: all(map(fold, n))))
def test_a_list_matches_itself(names: list[str]) -> None:
    found = match_classes(names, names)
    assert found.rows == tuple(range(len(names)))
    assert not found.ambiguous


@given(name=NOUNS, before=st.text("abcxyz ", max_size=5), after=st.text("abcxyz ", max_size=5))
def test_a_word_inside_a_longer_name_is_no_match(name: str, before: str, after: str) -> None:
    longer = before + name + after
    related_alone = related(fold(name), fold(longer))
    assert (match_classes([name], [longer], synonyms=[]).rows == (0,)) is related_alone


@given(name=NOUNS, theirs=LISTS)
def test_another_row_can_take_a_match_away_but_not_move_it(name: str, theirs: list[str]) -> None:
    row = match_classes([name], theirs).rows[0]
    again = match_classes([name], [*theirs, "something else"]).rows[0]
    assert again == row
    doubled = match_classes([name], [*theirs, *theirs])
    assert doubled.rows == (None,)
    assert bool(doubled.ambiguous) is (
        bool(match_classes([name], theirs).ambiguous) or row is not None
    )
