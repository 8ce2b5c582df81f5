from pathlib import Path

import pytest

from sennet_kaggle.data.splits import split_slices
from sennet_kaggle.data.volume import Volume
from sennet_kaggle.errors import InputError


def kidney(name, labelled, unlabelled=0):
    """A volume of that many slices; no file is read for a split."""
    stems = [f"{z:04d}" for z in range(labelled + unlabelled)]
    paths = tuple(Path(name, "images", f"{stem}.tif") for stem in stems)
    return Volume(name, paths, {stem: Path(name, "labels", f"{stem}.tif") for stem in stems[:labelled]})


A, B = kidney("a", 3, unlabelled=2), kidney("b", 2)


def test_nothing_held_out():
    assert split_slices([B, A]) == (["a_0000", "a_0001", "a_0002", "b_0000", "b_0001"], [])


def test_split_by_kidney():
    assert split_slices([A, B], held_out_volumes=["a"]) == (["b_0000", "b_0001"], ["a_0000", "a_0001", "a_0002"])


def test_split_by_slice_id():
    learnt_from, held_out = split_slices([A, B], held_out_slices=["b_0001", "a_0001"])
    assert (learnt_from, held_out) == (["a_0000", "a_0002", "b_0000"], ["a_0001", "b_0001"])


@pytest.mark.parametrize(
    ("sizes", "fraction", "from_each"),
    [
        pytest.param((30, 10), 0.2, (6, 2), id="in proportion"),
        pytest.param((10, 10, 10), 0.1, (1, 1, 1), id="one of each"),
        pytest.param((7,), 0.5, (4,), id="rounded (3.5, to even)"),
        pytest.param((9,), 0.01, (1,), id="at least one"),
        pytest.param((3,), 0.99, (2,), id="one is left"),
    ],
)
def test_split_by_fraction(sizes, fraction, from_each):
    volumes = [kidney(f"k{i}", size) for i, size in enumerate(sizes)]
    learnt_from, held_out = split_slices(volumes, held_out_fraction=fraction)
    assert tuple(sum(id_.startswith(volume.name) for id_ in held_out) for volume in volumes) == from_each
    everything = split_slices(volumes)[0]
    assert sorted([*learnt_from, *held_out]) == everything and len({*learnt_from, *held_out}) == len(everything)


def test_the_random_split_depends_on_the_seed_alone():
    volumes = [kidney("a", 30), kidney("b", 20)]
    first = split_slices(volumes, held_out_fraction=0.2, seed=1)
    assert split_slices(volumes[::-1], held_out_fraction=0.2, seed=1) == first
    assert split_slices(volumes, held_out_fraction=0.2, seed=2) != first
    assert first[1] != [f"a_{z:04d}" for z in range(6)] + [f"b_{z:04d}" for z in range(4)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"held_out_volumes": ["a"], "held_out_fraction": 0.1}, "held_out_volumes and held_out_fraction exclude"),
        ({"held_out_slices": ["a_0000"], "held_out_volumes": ["a"]}, "held_out_volumes and held_out_slices exclude"),
        ({"held_out_volumes": ["c"]}, "c is not a kidney with labelled slices: expected one of a, b"),
        ({"held_out_slices": ["a_0003"]}, "a_0003 is not a labelled slice: expected one of a_0000, a_0001, a_0002, b"),
        ({"held_out_fraction": 1.0}, r"held_out_fraction must lie in 0..1 \(1 excluded\), got 1.0"),
        ({"held_out_fraction": -0.1}, "held_out_fraction must lie"),
        ({"held_out_fraction": float("nan")}, "held_out_fraction must lie"),
        ({"held_out_volumes": ["a", "b"]}, "no labelled slice is left to learn from: 5 of 5 are held out"),
    ],
)
def test_splits_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        split_slices([A, B], **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labelled", [0, 1])
def test_too_few_slices_to_hold_one_out(labelled):
    with pytest.raises(InputError, match=f"no labelled slice is left to learn from: {labelled} of {labelled}"):
        split_slices([kidney("a", labelled, unlabelled=1)], held_out_fraction=0.5)


def test_a_long_list_of_ids_is_cut():
    with pytest.raises(InputError, match="x is not a labelled slice: .*, a_0007 and 92 more$"):
        split_slices([kidney("a", 100)], held_out_slices=["x"])
