"""Which volumes belong together and what is derived from them; layers without a viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_cryoaae.comparison import Kind, Part, entries_of, first_choice, refusal, tomograms, wedge_of
from napari_cryoaae.facts import KEY, LayerFacts, Role, StatedWedge, facts_of, voxel_size_of

napari = pytest.importorskip("napari", reason="the extra gui is not installed")
pytestmark = pytest.mark.filterwarnings("default", "ignore::DeprecationWarning")

WEDGE = StatedWedge((-50.0, 60.0), None, 3.0, True)
SHAPE = (4, 5, 6)


def image(role: Role, seed: int = 0, shape: tuple[int, ...] = SHAPE, name: str = "", **facts: Any) -> Any:
    from napari.layers import Image

    data = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    known = LayerFacts(role, facts.pop("tomogram", "t"), **facts)
    return Image(data, name=name or str(role), metadata={KEY: known}, contrast_limits=(-2, 4))


def test_input_is_the_mean_of_the_halves_and_the_residual_what_was_taken_away() -> None:
    even, odd, restored = image(Role.EVEN, 0), image(Role.ODD, 1), image(Role.RESTORED, 2)
    entries, notes = entries_of([restored, odd, even])
    assert [e.title for e in entries] == ["input", "even half", "odd half", "restored", "residual"]
    assert first_choice(entries) == ["input", "restored", "residual"]
    whole = [e.source.block((slice(None),) * 3) for e in entries]
    assert np.allclose(whole[0], (even.data + odd.data) / 2, atol=1e-6)
    assert np.allclose(whole[4], whole[0] - restored.data, atol=1e-6)
    assert entries[4].kind is Kind.DIFFERENCE
    assert notes == []


def test_a_single_volume_is_its_own_input() -> None:
    one, restored = image(Role.INPUT, 0), image(Role.RESTORED, 1)
    entries, _ = entries_of([restored, one])
    assert [e.title for e in entries] == ["input", "restored", "residual"]
    assert np.allclose(entries[2].source.block((slice(None),) * 3), one.data - restored.data, atol=1e-6)


def test_a_spread_and_volumes_of_another_size() -> None:
    layers = [image(Role.RESTORED), image(Role.STD, 1), image(Role.INPUT, 2, (8, 5, 6), name="binned")]
    entries, notes = entries_of(layers)
    assert [(e.title, e.kind) for e in entries] == [("restored", Kind.DENSITY), ("standard deviation", Kind.SPREAD)]
    assert notes == ["binned has another size than restored and is not shown"]


def test_two_restorations_are_told_apart_by_their_layers_names() -> None:
    layers = [image(Role.RESTORED, name="first"), image(Role.RESTORED, 1, name="second"), image(Role.INPUT, 2)]
    titles = [e.title for e in entries_of(layers)[0]]
    assert {"first", "second"} <= set(titles)
    assert len(set(titles)) == len(titles)


def test_grey_levels_of_differences_and_of_what_was_filled_in_lie_around_zero() -> None:
    entries, _ = entries_of([image(Role.INPUT), image(Role.RESTORED, 1)])
    whole, _, left = entries
    assert whole.levels() == (-2.0, 4.0)
    assert whole.levels(Part.MEASURED) == (-2.0, 4.0)
    assert whole.levels(Part.FILLED) == left.levels() == (-3.0, 3.0)


def test_tomograms_are_kept_apart_and_the_wedge_comes_from_whoever_knows_it() -> None:
    layers = [image(Role.INPUT, tomogram="a"), image(Role.INPUT, tomogram="b"), image(Role.RESTORED, wedge=WEDGE)]
    found = tomograms(layers)
    assert {name: len(mine) for name, mine in found.items()} == {"a": 1, "b": 1, "t": 1}
    assert wedge_of(found["t"]) == WEDGE
    assert wedge_of(found["a"]) is None
    built = WEDGE.build()
    assert (built.tilt_range_deg, built.tilt_axis_deg, built.flipped) == ((-50.0, 60.0), 3.0, True)


@pytest.mark.parametrize(
    ("kind", "shape", "look", "problem"),
    [
        ("Labels", (4, 5, 6), {}, "is a labels layer"),
        ("Points", (4, 3), {}, "is a points layer"),
        ("Image", (4, 5), {}, "has 2 axes"),
        ("Image", (2, 4, 5, 6), {}, "has 4 axes"),
        ("Image", (4, 5, 6, 3), {"rgb": True}, "has colour channels"),
    ],
)
def test_what_is_no_volume_is_refused_politely(kind: str, shape: Any, look: Any, problem: str) -> None:
    from napari import layers

    dtype = np.uint8 if kind == "Labels" else np.float32
    layer = getattr(layers, kind)(np.zeros(shape, dtype), name="x", **look)
    assert problem in refusal(layer)
    assert tomograms([layer]) == {}


def test_several_resolutions_and_lazy_arrays() -> None:
    from napari.layers import Image

    da = pytest.importorskip("dask.array")  # of napari's own
    data = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    assert "several resolutions" in refusal(Image([data, data[::2, ::2, ::2]], multiscale=True, name="pyramid"))
    (entry,), _ = entries_of([Image(da.from_array(data, chunks=8), name="lazy")])
    assert np.array_equal(entry.source.slab("xz", 3, 1), data[:, 3])


@pytest.mark.parametrize(
    ("scale", "units", "expected"),
    [
        ((8, 8, 8), ("angstrom",) * 3, 8.0),
        ((0.8, 0.8, 0.8), ("nanometer",) * 3, 8.0),
        ((1, 1, 1), ("pixel",) * 3, None),
        ((8, 8, 4), ("angstrom",) * 3, None),
        ((8, 8), ("angstrom",) * 2, None),
    ],
)
def test_voxel_size_from_scale_and_units(scale: Any, units: Any, expected: float | None) -> None:
    assert voxel_size_of(scale, units) == (None if expected is None else pytest.approx(expected))


def test_layer_that_another_plugin_read_speaks_through_its_file(tmp_path: Path) -> None:
    from napari.layers import Image
    from napari.layers._source import layer_source

    with layer_source(path=str(tmp_path / "TS_03_ODD.mrc")):
        layer = Image(np.zeros(SHAPE), name="x", scale=(9,) * 3, units=("angstrom",) * 3)
    facts = facts_of(layer)
    assert (facts.role, facts.tomogram, facts.voxel_size_angstrom) == (Role.ODD, "TS_03", pytest.approx(9.0))
    assert facts_of(Image(np.zeros(SHAPE), name="computed")).source is None
