"""Everything that can be wrong with annotated data is found, and nothing is said of what is right."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from aequorea.cli import check as check_command
from aequorea.errors import DataError, SpecError
from aequorea.signal.specimens import NucleiSpec, touching_nuclei
from aequorea.volume import from_array
from aequorea.workflows.check import check, estimate_shift
from aequorea.workflows.crops import crops, ome_tiff

SPACING = (2.0, 0.5, 0.5)
Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def save(path: Path, array: np.ndarray, spacing: tuple[float, float, float] | None = SPACING) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ome_tiff(array[None], spacing, ("dye",)))


@pytest.fixture(scope="module")
def specimens() -> list[tuple[np.ndarray, np.ndarray]]:
    made = [touching_nuclei((16, 64, 64), SPACING, seed, NucleiSpec(filled=1.0)) for seed in range(3)]
    return [(s.image, s.labels.astype(np.uint16)) for s in made]


@pytest.fixture
def folder(tmp_path: Path, specimens: list[tuple[np.ndarray, np.ndarray]]) -> Path:
    for number, (image, labels) in enumerate(specimens):
        save(tmp_path / f"images/s{number}.ome.tif", image)
        save(tmp_path / f"labels/s{number}.ome.tif", labels)
    return tmp_path


def said(path: Path, **options: object) -> list[str]:
    return [str(finding) for finding in check(path, **options)[0]]  # type: ignore[arg-type]


def test_nothing_is_said_of_what_is_right(folder: Path) -> None:
    assert check(folder) == ([], 3)


def test_an_unlabelled_value_that_no_voxel_has_is_told(folder: Path) -> None:
    assert said(folder, unlabelled=7000) == [
        f"warning: {folder}: no label is 7000, the value of unlabelled voxels"
    ]
    assert not any("no label is" in line for line in said(folder, unlabelled=1))


def torn(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = labels.copy()
    a, b = labels[0, 0, 0], labels[-1, -1, -1]
    values = [v for v in np.unique(labels) if v not in (0, a, b)]
    labels[labels == values[-1]] = values[0]
    return image, labels


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda i, t: (i, t[:, 1:]), "error: s1: .* voxels"),
        (lambda i, t: (i, t * 0), "error: .*labels/s1.* empty: only background"),
        (lambda i, t: (i, t / 2), "error: s1: .* whole numbers"),
        (lambda i, t: (i, t.astype(np.int32) - 3), "error: .*negative values"),
        (torn, r"warning: .*labels/s1.* ids in several pieces: \d+ \(2\)"),
        (lambda i, t: (i, np.roll(t, (0, -4, 3), (0, 1, 2))), r"shifted .*: z \+0, y \+4, x -3 voxels"),
        (lambda i, t: (i * 0 + 7, t), "error: .*images/s1.* all values are equal"),
        (lambda i, t: (i * 20, t), "warning: s1: intensities span .* the same stain"),
        (lambda i, t: (np.minimum(i, np.percentile(i, 98)).astype(i.dtype), t), "cut off at .*saturated"),
        (lambda i, t: (np.where(i > 150, i, np.nan).astype(np.float32), t), "not finite"),
        (
            lambda i, t: (i, (np.arange(t.size).reshape(t.shape) < 30).astype(np.uint8)),
            "only 30 labelled voxels of",
        ),
    ],
)
def test_what_is_wrong_is_found(
    folder: Path, specimens: list[tuple[np.ndarray, np.ndarray]], change: Change, text: str
) -> None:
    image, labels = change(*specimens[1])
    save(folder / "images/s1.ome.tif", image)
    save(folder / "labels/s1.ome.tif", labels)
    lines = "\n".join(said(folder))
    assert re.search(text, lines), lines


def test_a_truncated_file_is_one_error(folder: Path) -> None:
    path = folder / "images/s2.ome.tif"
    path.write_bytes(path.read_bytes()[:3000])
    lines = said(folder)
    assert len(lines) == 1 and lines[0].startswith("error: s2: ")


def test_spacing_missing_or_unequal(folder: Path, specimens: list[tuple[np.ndarray, np.ndarray]]) -> None:
    save(folder / "images/s0.ome.tif", specimens[0][0], None)
    save(folder / "labels/s1.ome.tif", specimens[1][1], (1.0, 0.5, 0.5))
    lines = said(folder)
    assert any("warning: s0: no voxel size" in line and "--spacing Z,Y,X" in line for line in lines)
    assert any("warning: s1: image has (2.0, 0.5, 0.5) µm" in line for line in lines)
    assert said(folder, spacing=SPACING) == []


def test_one_specimen_on_both_sides(folder: Path) -> None:
    table = folder / "t.csv"
    text = "image,label,group,split\nimages/s0.ome.tif,labels/s0.ome.tif,a,train\n"
    table.write_text(text + "images/s1.ome.tif,labels/s1.ome.tif,a,val\n")
    assert said(table) == ["error: a: one specimen on both sides of the split (train, val): keep it on one"]
    (folder / "images/copy.ome.tif").write_bytes((folder / "images/s0.ome.tif").read_bytes())
    table.write_text(text + "images/copy.ome.tif,labels/s0.ome.tif,b,val\n")
    assert said(table) == ["error: s0, copy: the same image as two specimens or on both sides: drop one"]


def test_strokes_and_unpainted_crops(tmp_path: Path, specimens: list[tuple[np.ndarray, np.ndarray]]) -> None:
    image, labels = specimens[0]
    made = crops(from_array(image, SPACING), tmp_path, name="a", n=2, size=(16, 32, 32), strokes=True)
    assert any("error" in line and "none of 2 crops is painted yet" in line for line in said(tmp_path))
    painted = (labels[made[0].region.slices] > 0).astype(np.uint16) + 1
    painted[:, 16:] = 0
    save(made[0].label, painted)
    lines = said(tmp_path)
    assert len(lines) == 1 and "nothing painted yet" in lines[0]
    save(made[0].label, np.minimum(painted, 1))
    assert any("empty: only background" in line or "nothing painted" in line for line in said(tmp_path))


def test_images_without_labels_and_folders_without_any(folder: Path) -> None:
    (folder / "labels/s1.ome.tif").unlink()
    assert any("s1.ome.tif: no label" in line for line in said(folder))
    for path in (folder / "labels").iterdir():
        path.unlink()
    assert any("error" in line and "none of 3 images has a label" in line for line in said(folder))
    with pytest.raises(DataError, match="no such file"):
        check(folder / "gone")


def test_points(folder: Path) -> None:
    (folder / "points").mkdir()
    (folder / "points/s0.csv").write_text("z,y,x\n1,2,3\n99,2,3\n")
    (folder / "points/s1.csv").write_text("z,y,x\n")
    lines = "\n".join(said(folder, kind="points"))
    assert "1 points lie outside" in lines and "no points in it" in lines


def test_large_images_are_looked_at_in_the_middle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aequorea.workflows.check.MOST_VOXELS", 16 * 48 * 48)
    assert not [line for line in said(folder) if "error" in line]


@pytest.mark.parametrize("shift", [(0, 4, 0), (0, -3, 5), (3, 0, -4)])
def test_shifts_are_estimated_on_stained_bodies_and_on_stained_borders(shift: tuple[int, int, int]) -> None:
    specimen = touching_nuclei((24, 96, 96), (1.0, 0.5, 0.5), 4)
    labels, known = specimen.labels, np.ones(specimen.labels.shape, bool)
    moved = np.roll(labels, [-s for s in shift], (0, 1, 2))
    ridge = sum(np.abs(np.gradient((labels > 0).astype(float), axis=axis)) for axis in range(3))
    for image in (specimen.image, ridge):
        assert estimate_shift(image[None], labels, known) is None
        found = estimate_shift(image[None], moved, known)
        assert found is not None and np.abs(np.subtract(found, shift)).max() <= 1


def test_a_label_without_borders_has_no_shift() -> None:
    empty = np.zeros((4, 8, 8))
    assert estimate_shift(empty[None], empty, empty == 0) is None


def run(*words: str) -> tuple[int, str]:
    app = Typer()
    app.callback()(lambda: None)
    check_command.command(app)
    result = CliRunner().invoke(app, ["check", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_the_command_leaves_with_2_only_for_errors(
    folder: Path, specimens: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    assert run(str(folder)) == (0, "3 images: 0 errors, 0 warnings\n")
    save(folder / "images/s0.ome.tif", specimens[0][0], None)
    code, text = run(str(folder))
    assert code == 0 and text.endswith("3 images: 0 errors, 1 warnings\n")
    save(folder / "labels/s0.ome.tif", specimens[0][1] * 0)
    assert run(str(folder))[0] == 2
    with pytest.raises(SpecError, match="did you mean 'label'"):
        run(str(folder), "--kind", "lable")


@pytest.mark.parametrize(
    "name", ["organoid_lstree/*_nuclei.tif", "stardist_demo", "ovule_nuclei", "octa_vessels"]
)
def test_no_errors_or_shifts_are_seen_in_real_data(real_data: Path, name: str) -> None:
    findings, images = check(real_data / "open" / name)
    assert images and not [f for f in findings if f.level == "error" or "shifted" in f.text]
