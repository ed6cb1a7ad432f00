"""Laws of the simulated specimens: exact, pure, touching, and hard for a threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from aequorea.errors import DataError, SpecError
from aequorea.signal import specimens
from aequorea.signal.classical import otsu_watershed
from aequorea.signal.specimens import UNSEEN, NucleiSpec, touching_nuclei

SPACING = (2.0, 0.5, 0.5)


def touching_share(labels: np.ndarray) -> float:
    """Share of the objects that share a face with another."""
    found: set[int] = set()
    for axis in range(3):
        near = np.moveaxis(labels, axis, 0)
        a, b = near[:-1], near[1:]
        meet = (a != b) & (a > 0) & (b > 0)
        found |= set(a[meet]) | set(b[meet])
    return len(found) / labels.max()


def f1(truth: np.ndarray, found: np.ndarray) -> float:
    """F1 at IoU 0.5, where matches are one to one by themselves."""
    pairs, both = np.unique(np.stack([truth.ravel(), found.ravel()]), axis=1, return_counts=True)
    sizes, others = np.bincount(truth.ravel()), np.bincount(found.ravel())
    iou = both / (sizes[pairs[0]] + others[pairs[1]] - both)
    hits = ((iou > 0.5) & (pairs > 0).all(0)).sum()
    return float(2 * hits / (truth.max() + found.max()))


@pytest.fixture(scope="module")
def specimen() -> specimens.Specimen:
    return touching_nuclei((32, 192, 192), SPACING, 3)


def test_the_truth_is_numbered_without_gaps_in_one_piece_each(specimen: specimens.Specimen) -> None:
    labels = specimen.labels
    assert labels.dtype == np.int32 and specimen.image.dtype == np.uint16
    assert set(np.unique(labels)) == set(range(labels.max() + 1))
    pieces = [
        ndimage.label(labels[box] == number)[1] for number, box in enumerate(ndimage.find_objects(labels), 1)
    ]
    assert pieces == [1] * labels.max()


def test_many_touch_and_the_pitch_says_how_many(specimen: specimens.Specimen) -> None:
    loose = touching_nuclei((24, 128, 128), SPACING, 3, NucleiSpec(pitch=1.6)).labels
    assert touching_share(specimen.labels) >= 0.4
    assert touching_share(loose) < touching_share(specimen.labels) - 0.2


def test_diameters_are_those_asked_for() -> None:
    spec = NucleiSpec(diameter=(8.0, 8.0), elongation=(1.0, 1.0), pitch=2.5, filled=1.0)
    labels = touching_nuclei((40, 160, 160), (1.0, 0.5, 0.5), 1, spec).labels
    inner = labels[8:-8, 16:-16, 16:-16]
    whole = np.setdiff1d(np.unique(inner), np.unique(np.concatenate([labels[0].ravel(), labels[-1].ravel()])))
    volumes = np.bincount(labels.ravel())[whole] * 0.25
    assert np.median(volumes) == pytest.approx(np.pi / 6 * 8**3, rel=0.08)


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.floats(0.5, 5), st.floats(0.4, 1), st.floats(0.4, 1)),
    st.integers(0, 2**63),
)
def test_it_is_a_pure_function_of_any_size_spacing_and_seed(
    size: tuple[int, int, int], spacing: tuple[float, float, float], seed: int
) -> None:
    one, two = (touching_nuclei(size, spacing, seed) for _ in range(2))
    assert one.image.shape == one.labels.shape == size and one.spacing == spacing
    assert (one.image == two.image).all() and (one.labels == two.labels).all()


def test_slabs_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = touching_nuclei((20, 48, 48), SPACING, 5)
    monkeypatch.setattr(specimens, "SLAB", 7)
    cut = touching_nuclei((20, 48, 48), SPACING, 5)
    assert (whole.labels == cut.labels).all()
    # Moving averages round differently in other slabs, which now and then moves one photon.
    assert (whole.image == cut.image).mean() > 0.999


CHANGED = {
    "diameter": (9.0, 12.0),
    "elongation": (1.8, 2.0),
    "roughness": 0.2,
    "pitch": 1.3,
    "filled": 0.5,
    "cleft": 1.0,
    "contrast": 0.1,
    "grain": 2.5,
    "nucleoli": 0,
    "brightness": 0.1,
    "glow": 0.0,
    "haze": 0.0,
    "attenuation": 100.0,
    "stripes": 0.0,
    "photons": 200.0,
    "read_noise": 20.0,
    "offset": 10.0,
    "gain": 1.0,
    "na": 0.9,
    "sheet_na": 0.2,
    "wavelength": 0.7,
}


def test_every_field_is_tried() -> None:
    assert set(CHANGED) == set(NucleiSpec.model_fields)


@pytest.mark.parametrize("field", CHANGED)
def test_every_field_changes_the_image(field: str) -> None:
    # Shadows begin somewhere along x: the volume must be long enough to hold one.
    size = (6, 64, 96)
    plain = touching_nuclei(size, SPACING, 2)
    other = touching_nuclei(size, SPACING, 2, NucleiSpec.parse({field: CHANGED[field]}))
    assert (plain.image != other.image).mean() > 0.01
    shape = ("diameter", "elongation", "roughness", "pitch", "filled")
    assert (plain.labels == other.labels).all() == (field not in shape)


def test_the_unseen_recipe_lies_outside_the_default() -> None:
    default = NucleiSpec()
    assert UNSEEN.diameter[0] > default.diameter[1] and UNSEEN.elongation[0] > default.elongation[1]
    assert UNSEEN.grain > default.grain and UNSEEN.contrast > default.contrast


@pytest.mark.parametrize("spec", [NucleiSpec(), UNSEEN])
def test_a_threshold_and_a_watershed_do_not_solve_it(spec: NucleiSpec) -> None:
    specimen = touching_nuclei((32, 160, 160), SPACING, 11, spec)
    scores = [
        f1(specimen.labels, otsu_watershed(specimen.image, SPACING, sigma_um=1.0, min_distance_um=distance))
        for distance in (3.0, 4.0)
    ]
    assert 0.2 < max(scores) <= 0.65


def test_no_nuclei_are_no_error() -> None:
    empty = touching_nuclei((1, 1, 1), (0.1, 0.1, 0.1), 0, NucleiSpec(pitch=20.0, filled=0.01))
    assert empty.image.shape == (1, 1, 1)


@pytest.mark.parametrize(("size", "spacing"), [((0, 4, 4), SPACING), ((4, 4, 4), (0.0, 1.0, 1.0))])
def test_nothing_cannot_be_simulated(size: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    with pytest.raises(DataError, match="positive"):
        touching_nuclei(size, spacing, 0)


def test_a_span_the_wrong_way_round_is_refused() -> None:
    with pytest.raises(SpecError, match="diameter"):
        NucleiSpec.parse({"diameter": (9.0, 7.0)})
