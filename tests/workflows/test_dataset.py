"""Datasets in each of their shapes, and what is said when they are wrong."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from aequorea.annotations import ItemClass, LabelImage, Points, TargetImage
from aequorea.errors import AequoreaWarning, DataError
from aequorea.volume import Region
from aequorea.workflows.dataset import dataset, entries, ranges, stem_of

SIZE = (4, 10, 12)


def save(path: Path, array: np.ndarray, spacing: tuple[float, float, float] | None = (2.0, 0.5, 0.5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    words: dict[str, object] = {"axes": "ZYX"}
    if spacing is not None:
        for axis, size in zip("ZYX", spacing):
            words[f"PhysicalSize{axis}"] = size
            words[f"PhysicalSize{axis}Unit"] = "µm"
    tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata=words)


def pair(folder: Path, image: str, label: str, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    save(folder / image, rng.integers(0, 999, SIZE).astype(np.uint16))
    save(folder / label, rng.integers(0, 3, SIZE).astype(np.uint8), spacing=None)


def test_folders_with_equal_stems(tmp_path: Path) -> None:
    pair(tmp_path, "images/b.ome.tif", "labels/b.tif", 1)
    pair(tmp_path, "images/a.tif", "labels/a.tif")
    items = dataset(tmp_path)
    assert [item.name for item in items] == ["a", "b"] == [item.group for item in items]
    for item in items:
        assert item.image.size == SIZE and isinstance(item.annotation, LabelImage)
        assert item.image.spacing == item.annotation.spacing == (2.0, 0.5, 0.5)
        assert item.annotation.unlabelled is None


def test_stems_with_label_in_the_name(tmp_path: Path) -> None:
    pair(tmp_path, "a.tif", "a_label.tif")
    pair(tmp_path, "b_x.tif", "b_x_label.tif")
    save(tmp_path / "c.tif", np.zeros(SIZE, np.uint8))
    with pytest.warns(AequoreaWarning, match="1 of 3 images have no label: left out, e.g. c"):
        assert [item.name for item in dataset(tmp_path)] == ["a", "b_x"]
    assert [item.name for item in dataset(tmp_path / "*_x.tif")] == ["b_x"]
    assert [item.name for item in dataset(tmp_path / "a.tif", unlabelled=0)] == ["a"]
    assert dataset(tmp_path / "a.tif", unlabelled=0)[0].annotation.unlabelled == 0  # type: ignore[attr-defined]


def test_a_table_says_groups_splits_regions_and_spacing(tmp_path: Path) -> None:
    pair(tmp_path, "d/a.tif", "d/a_label.tif")
    (tmp_path / "data.csv").write_text(
        "image,label,group,split,unlabelled,region,spacing\n"
        'd/a.tif,d/a_label.tif,mouse 1,Train,255,"0:2,0:10,3:12",3 1 1\n'
        "\n"
        "d/a.tif,d/a_label.tif,,,,,\n"
    )
    first, second = dataset(tmp_path / "data.csv")
    label = tifffile.imread(tmp_path / "d/a_label.tif")
    assert (first.group, first.split, first.image.size) == ("mouse 1", "train", (2, 10, 9))
    assert first.image.spacing == (3.0, 1.0, 1.0) and first.annotation.unlabelled == 255  # type: ignore[attr-defined]
    assert (first.annotation.volume.read()[0] == label[:2, :, 3:]).all()  # type: ignore[attr-defined]
    assert (second.group, second.split, second.image.size) == ("a", None, SIZE)
    assert dataset(tmp_path / "data.csv", spacing=(9.0, 1.0, 1.0))[0].image.spacing == (9.0, 1.0, 1.0)


def test_images_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Each by its own range: that of the whole volume that it is, or is a part of."""
    for folder, gain in (("day1", 1), ("day2", 100)):
        pair(tmp_path, f"{folder}/a.tif", f"{folder}/a_label.tif")
        save(tmp_path / folder / "a.tif", (np.arange(np.prod(SIZE)).reshape(SIZE) * gain).astype("u2"))
    rows = [
        "day1/a.tif,day1/a_label.tif,",
        "day2/a.tif,day2/a_label.tif,",
        'day2/a.tif,day2/a_label.tif,"0:2,:,:"',
    ]
    (tmp_path / "data.csv").write_text("\n".join(["image,label,region", *rows]) + "\n")
    items = dataset(tmp_path / "data.csv")
    assert [item.name for item in items] == ["a", "a (2)", "a (3)"]
    found = ranges(items)
    assert found["a"] != found["a (2)"] == found["a (3)"]


def test_a_label_of_the_region_alone_is_taken_as_it_is(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", np.zeros(SIZE, np.uint16))
    save(tmp_path / "part.tif", np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4))
    (tmp_path / "t.csv").write_text('image,label,region\na.tif,part.tif,"1:3,2:5,4:8"\n')
    item = dataset(tmp_path / "t.csv")[0]
    assert item.image.size == (2, 3, 4)
    assert item.annotation.volume.read()[0, 1, 2, 3] == 23  # type: ignore[attr-defined]


def test_other_kinds_of_annotation(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", np.zeros(SIZE, np.uint16))
    save(tmp_path / "a_target.tif", np.zeros((4, 20, 24), np.uint16), (2.0, 0.25, 0.25))
    (tmp_path / "a_points.csv").write_text("x,y,z\n5,1,0.25\n11,2,3\n")
    target = dataset(tmp_path, kind="image")[0].annotation
    assert isinstance(target, TargetImage) and target.volume.size == (4, 20, 24)
    points = dataset(tmp_path, kind="points")[0].annotation
    assert isinstance(points, Points) and points.zyx.tolist() == [[0.25, 1, 5], [3, 2, 11]]
    (tmp_path / "t.csv").write_text("image,label\na.tif,mutant\n")
    assert dataset(tmp_path / "t.csv", kind="class")[0].annotation == ItemClass("mutant")
    (tmp_path / "p.csv").write_text('image,label,region\na.tif,a_points.csv,"1:4,0:10,4:12"\n')
    assert dataset(tmp_path / "p.csv", kind="points")[0].annotation.zyx.tolist() == [[2, 2, 7]]  # type: ignore[attr-defined]


def test_crops_of_one_volume_are_one_group(tmp_path: Path) -> None:
    pair(tmp_path, "brain_z000_y010_x020.ome.tif", "brain_z000_y010_x020_label.ome.tif")
    assert dataset(tmp_path)[0].group == "brain"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.ome.tif", "a"),
        ("t0.5.TIFF", "t0.5"),
        ("v.ome.zarr", "v"),
        ("n.nii.gz", "n"),
        ("a.txt", None),
        (".tif", None),
    ],
)
def test_stems(name: str, stem: str | None) -> None:
    assert stem_of(Path(name)) == stem


def table(tmp_path: Path, text: str) -> Path:
    pair(tmp_path, "a.tif", "a_label.tif")
    (tmp_path / "t.csv").write_text(text)
    return tmp_path / "t.csv"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no lines below a header"),
        ("image,label\n", "no lines below a header"),
        ("picture\na.tif\n", "no column 'image'"),
        ("image,lable\na.tif,b\n", "did you mean 'label'"),
        ("image,label\nz.tif,a_label.tif\n", "line 2: image 'z.tif' is not there"),
        ("image,label\na.tif,z.tif\n", "line 2: label 'z.tif' is not there"),
        ("image,label,split\na.tif,a_label.tif,trian\n", "did you mean 'train'"),
        ("image,label,unlabelled\na.tif,a_label.tif,none\n", "none"),
        ("image,label,spacing\na.tif,a_label.tif,1 2\n", "not three positive numbers"),
        ("image,label,region\na.tif,a_label.tif,0:1,2:3\n", "quote fields with commas"),
        ('image,label,region\na.tif,a_label.tif,"0:1,0:9,0:99"\n', "not inside"),
        ("image,label\na.tif,\n", "none of 1 images has a label"),
    ],
)
def test_tables_that_are_wrong_say_where(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        dataset(table(tmp_path, text))
    assert "\n" not in str(error.value)


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    pair(tmp_path, "a.tif", "a_label.tif")
    save(tmp_path / "a_label.tif", np.zeros((4, 10, 11), np.uint8))
    with pytest.raises(DataError, match=r"a_label.tif: \(4, 10, 11\) voxels .* a.tif has \(4, 10, 12\)"):
        dataset(tmp_path)
    save(tmp_path / "a_label.tif", np.zeros(SIZE, np.float32))
    with pytest.raises(DataError, match="whole numbers"):
        dataset(tmp_path)
    save(tmp_path / "b_label.tif", np.zeros(SIZE, np.uint8))
    with pytest.raises(DataError, match="no image is called 'b'"):
        dataset(tmp_path)


def test_places_that_are_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images there"):
        dataset(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        dataset(tmp_path / "gone")
    with pytest.raises(DataError, match="come from a CSV"):
        dataset(tmp_path, kind="class")
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="no labels/"):
        dataset(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        dataset(tmp_path / "gone.csv")


def test_one_stem_twice(tmp_path: Path) -> None:
    pair(tmp_path, "a.tif", "a_label.tif")
    save(tmp_path / "a.ome.tif", np.zeros(SIZE, np.uint8))
    with pytest.raises(DataError, match="same stem"):
        dataset(tmp_path)


def test_real_folders_pair_up(real_data: Path) -> None:
    folder = real_data / "open" / "organoid_lstree"
    found = [entry.name for entry in entries(folder / "*_nuclei.tif") if entry.label is not None]
    assert found == ["budding_t301_nuclei", "budding_t305_nuclei"]
    item = dataset(folder / "budding_t301_nuclei.tif")[0]
    assert item.image.spacing == (2.0, 0.26, 0.26)
    block = item.annotation.crop(Region.at((0, 0, 0), (4, 8, 8)), item.image.size)
    assert block.volume.size == (4, 8, 8)  # type: ignore[attr-defined]
    assert len(dataset(folder / "budding_t301_nuclei.tif", kind="points")[0].annotation.zyx) == 20  # type: ignore[attr-defined]
