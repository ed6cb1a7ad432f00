"""One small file of every kind that can be opened, written by other software, with what it should read as."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import nibabel
import numpy as np
import ome_zarr.format
import ome_zarr.writer
import pytest
import tifffile
import zarr
from PIL import Image

SPACING = (2.0, 0.3, 0.2)
LEAST = 8


@dataclass(frozen=True)
class Made:
    """A file and the truth about it (axes C Z Y X)."""

    path: Path
    truth: np.ndarray
    spacing: tuple[float, float, float] | None = None
    channels: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    levels: int = 0


MAKERS: dict[str, Callable[[Path], Made]] = {}


def maker(make: Callable[[Path], Made]) -> Callable[[Path], Made]:
    MAKERS[make.__name__] = make
    return make


def image(*shape: int, dtype: str = "uint16", seed: int = 5) -> np.ndarray:
    high = 256 if np.dtype(dtype).itemsize == 1 else 60000
    values = np.random.default_rng(seed).integers(0, high, shape)
    return (values - (1000 if np.dtype(dtype).kind in "if" else 0)).astype(dtype)


@pytest.fixture(scope="session")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def make() -> Callable[[str, Path], Made]:
    """Makes one of the files by its name, to be changed by a test."""
    return lambda name, folder: MAKERS[name](folder)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "made" in metafunc.fixturenames:
        metafunc.parametrize("made", list(MAKERS), indirect=True, scope="session")


# TIFF


@maker
def tiff_plain(folder: Path) -> Made:
    truth = image(1, 7, 33, 45)
    tifffile.imwrite(folder / "a.tif", truth[0])
    return Made(folder / "a.tif", truth)


@maker
def tiff_big_endian_strips(folder: Path) -> Made:
    truth = image(1, 7, 33, 45, dtype="int16")
    tifffile.imwrite(
        folder / "a.tif",
        truth[0],
        bigtiff=True,
        byteorder=">",
        compression="lzw",
        predictor=True,
        rowsperstrip=7,
        metadata=None,
    )
    return Made(folder / "a.tif", truth)


@maker
def tiff_uncompressed_scattered(folder: Path) -> Made:
    truth = image(1, 5, 33, 45)
    with tifffile.TiffWriter(folder / "a.tif") as file:
        for plane in truth[0]:
            file.write(plane, metadata=None, description="a plane", rowsperstrip=9)
    return Made(folder / "a.tif", truth)


@maker
def tiff_volumetric_tiles(folder: Path) -> Made:
    truth = image(1, 7, 33, 45, dtype="float32")
    tifffile.imwrite(folder / "a.tif", truth[0], tile=(4, 16, 16), compression="zlib", predictor=True)
    return Made(folder / "a.tif", truth)


@maker
def tiff_imagej(folder: Path) -> Made:
    truth = image(2, 7, 33, 45)
    tifffile.imwrite(
        folder / "a.tif",
        truth.swapaxes(0, 1),
        imagej=True,
        resolution=(1 / 0.2, 1 / 0.3),
        metadata={"axes": "ZCYX", "spacing": 2.0, "unit": "um"},
    )
    return Made(folder / "a.tif", truth, SPACING)


@maker
def tiff_imagej_compressed(folder: Path) -> Made:
    truth = image(1, 7, 33, 45)
    tifffile.imwrite(
        folder / "a.tif",
        truth[0],
        imagej=True,
        compression="zlib",
        resolution=(1 / 200, 1 / 300),
        metadata={"axes": "ZYX", "spacing": 2000.0, "unit": "nm"},
    )
    return Made(folder / "a.tif", truth, SPACING)


def ome(**more: Any) -> dict[str, Any]:
    return {
        "PhysicalSizeX": 200.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.3,
        "PhysicalSizeYUnit": "µm",
        "PhysicalSizeZ": 0.002,
        "PhysicalSizeZUnit": "mm",
        **more,
    }


@maker
def tiff_ome_tiles(folder: Path) -> Made:
    truth = image(2, 7, 33, 45)
    tifffile.imwrite(
        folder / "a.ome.tif",
        truth,
        ome=True,
        tile=(16, 32),
        compression="zlib",
        predictor=True,
        metadata=ome(axes="CZYX", Channel={"Name": ["membrane", "nuclei"]}),
    )
    return Made(folder / "a.ome.tif", truth, SPACING, ("membrane", "nuclei"))


@maker
def tiff_ome_pyramid(folder: Path) -> Made:
    truth = image(1, 5, 64, 48)
    with tifffile.TiffWriter(folder / "a.ome.tif") as file:
        file.write(truth[0], subifds=1, tile=(16, 16), metadata=ome(axes="ZYX"))
        file.write(truth[0, :, ::2, ::2], subfiletype=1, tile=(16, 16))
    return Made(folder / "a.ome.tif", truth, SPACING, levels=1)


@maker
def tiff_ome_time_and_channel(folder: Path) -> Made:
    whole = image(3, 5, 2, 20, 30)
    tifffile.imwrite(folder / "a.ome.tif", whole, ome=True, metadata=ome(axes="TZCYX"))
    return Made(folder / "a.ome.tif", whole[1].swapaxes(0, 1), SPACING, options={"time": 1})


@maker
def tiff_rgb(folder: Path) -> Made:
    truth = image(3, 5, 33, 45, dtype="uint8")
    tifffile.imwrite(folder / "a.tif", np.moveaxis(truth, 0, -1), photometric="rgb", compression="zlib")
    return Made(folder / "a.tif", truth, channels=("red", "green", "blue"))


@maker
def tiff_planar_colours(folder: Path) -> Made:
    truth = image(3, 1, 33, 45, dtype="uint8")
    tifffile.imwrite(
        folder / "a.tif",
        truth[:, 0],
        photometric="rgb",
        planarconfig="separate",
        compression="zlib",
        rowsperstrip=8,
    )
    return Made(folder / "a.tif", truth, channels=("red", "green", "blue"))


@maker
def tiff_bool(folder: Path) -> Made:
    truth = image(1, 4, 33, 45, dtype="uint8") > 100
    tifffile.imwrite(folder / "a.tif", truth[0], metadata=None)
    return Made(folder / "a.tif", truth)


@maker
def tiff_several_files(folder: Path) -> Made:
    truth = image(2, 4, 20, 30)
    uuid = "urn:uuid:0000000{}-0000-0000-0000-000000000000"
    planes = "".join(
        f'<TiffData FirstC="{c}" FirstZ="{z}" FirstT="0" IFD="{z}" PlaneCount="1">'
        f'<UUID FileName="c{c}.ome.tif">{uuid.format(c)}</UUID></TiffData>'
        for c in range(2)
        for z in range(4)
    )
    for c in range(2):
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuid.format(c)}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="30" '
            'SizeY="20" SizeZ="4" '
            'SizeC="2" SizeT="1" PhysicalSizeX="0.2" PhysicalSizeY="0.3" PhysicalSizeZ="2">'
            '<Channel ID="Channel:0:0"/><Channel ID="Channel:0:1"/>' + planes + "</Pixels></Image></OME>"
        )
        with tifffile.TiffWriter(folder / f"c{c}.ome.tif") as file:
            file.write(truth[c], description=xml, metadata=None, photometric="minisblack", compression="zlib")
    return Made(folder / "c0.ome.tif", truth, SPACING)


# OME-Zarr


def write_ome_zarr(path: Path, values: np.ndarray, axes: str, version: str, **more: Any) -> zarr.Group:
    names = {"t": "second", "z": "millimeter", "y": "micrometer", "x": "nanometer"}
    scale = {"t": 1.0, "c": 1.0, "z": 0.002, "y": 0.3, "x": 200.0}
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    ome_zarr.writer.write_image(
        values,
        group,
        fmt=ome_zarr.format.FormatV04() if version == "0.4" else ome_zarr.format.FormatV05(),
        axes=axes,
        scale={a: scale[a] for a in axes},
        axes_units={a: names[a] for a in axes if a in names},
        scale_factors=[2],
        storage_options={"chunks": (1,) * (len(axes) - 3) + (4, 16, 16)},
        **more,
    )
    return group


@maker
def ome_zarr_04(folder: Path) -> Made:
    truth = image(2, 8, 32, 48)
    omero = {"channels": [{"label": "membrane", "color": "FF0000"}, {"label": "nuclei", "color": "00FF00"}]}
    write_ome_zarr(folder / "a.ome.zarr", truth, "czyx", "0.4", metadata={"omero": omero})
    attributes = folder / "a.ome.zarr" / ".zattrs"
    words = json.loads(attributes.read_text())
    attributes.write_text(json.dumps(words | {"omero": omero}))
    return Made(folder / "a.ome.zarr", truth, SPACING, ("membrane", "nuclei"), levels=1)


@maker
def ome_zarr_05(folder: Path) -> Made:
    truth = image(1, 8, 32, 48, dtype="float32")
    write_ome_zarr(folder / "a.ome.zarr", truth[0], "zyx", "0.5")
    return Made(folder / "a.ome.zarr", truth, SPACING, levels=1)


@maker
def ome_zarr_time(folder: Path) -> Made:
    whole = image(2, 3, 4, 16, 24)
    write_ome_zarr(folder / "a.ome.zarr", whole, "tczyx", "0.5")
    return Made(folder / "a.ome.zarr", whole[1], SPACING, options={"time": 1}, levels=1)


@maker
def ome_zarr_label(folder: Path) -> Made:
    truth = image(1, 8, 32, 48)
    group = write_ome_zarr(folder / "a.ome.zarr", truth[0], "zyx", "0.5")
    label = image(1, 8, 32, 48, dtype="uint8", seed=6)
    ome_zarr.writer.write_labels(
        label[0],
        group,
        "nuclei",
        axes="zyx",
        scale_factors=[2],
        scale={"z": 2.0, "y": 0.3, "x": 0.2},
        axes_units=dict.fromkeys("zyx", "micrometer"),
    )
    return Made(folder / "a.ome.zarr", label, SPACING, options={"dataset": "labels/nuclei"}, levels=4)


@maker
def ome_zarr_plate(folder: Path) -> Made:
    path = folder / "plate.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    fmt = ome_zarr.format.FormatV04()
    ome_zarr.writer.write_plate_metadata(group, ["A", "B"], ["1", "2"], ["A/1", "B/2"], fmt=fmt)
    truth = image(1, 3, 20, 30)
    for well in ("A/1", "B/2"):
        inner = group.require_group(well)
        ome_zarr.writer.write_well_metadata(inner, ["0", "1"], fmt=fmt)
        for number in ("0", "1"):
            values = truth[0] if (well, number) == ("B/2", "1") else truth[0] // 2
            ome_zarr.writer.write_image(
                values, inner.require_group(number), fmt=fmt, axes="zyx", scale_factors=[2]
            )
    return Made(path, truth, options={"scene": "B/2/1"}, levels=1)


@maker
def ome_zarr_collection(folder: Path) -> Made:
    path = folder / "a.zarr"
    truth = image(1, 8, 32, 48)
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    write_ome_zarr(path / "0", truth[0] // 2, "zyx", "0.4")
    write_ome_zarr(path / "1", truth[0], "zyx", "0.4")
    return Made(path, truth, SPACING, options={"scene": 1}, levels=1)


@maker
def zarr_sharded_array(folder: Path) -> Made:
    truth = image(1, 9, 33, 45, dtype="uint8")
    array = zarr.create_array(
        folder / "a.zarr", shape=(9, 33, 45), dtype="u1", chunks=(4, 8, 8), shards=(8, 16, 32)
    )
    array[:] = truth[0]
    return Made(folder / "a.zarr", truth)


# HDF5


@maker
def hdf5_plain(folder: Path) -> Made:
    truth = image(1, 9, 33, 45, dtype=">i2")
    with h5py.File(folder / "a.h5", "w") as file:
        data = file.create_dataset("volumes/raw", data=truth[0], chunks=(4, 8, 8), compression="gzip")
        data.attrs["element_size_um"] = SPACING
        file["volumes/label"] = truth[0] > 3
    return Made(folder / "a.h5", truth, SPACING, options={"dataset": "volumes/raw"})


@maker
def hdf5_ilastik(folder: Path) -> Made:
    truth = image(2, 9, 33, 45)
    tags = json.dumps({"axes": [{"key": k, "typeFlags": 2} for k in "zyxc"]})
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("exported_data", data=np.moveaxis(truth, 0, -1)).attrs["axistags"] = tags
    return Made(folder / "a.h5", truth)


def characters(text: object) -> np.ndarray:
    return np.frombuffer(str(text).encode(), "S1")


@maker
def hdf5_imaris(folder: Path) -> Made:
    whole = image(2, 2, 5, 33, 45)
    with h5py.File(folder / "a.ims", "w") as file:
        info = file.create_group("DataSetInfo")
        about = info.create_group("Image").attrs
        about["Unit"] = characters("um")
        for i, (axis, length, step) in enumerate(zip("XYZ", (45, 33, 5), (0.2, 0.3, 2.0))):
            about[axis] = characters(length)
            about[f"ExtMin{i}"] = characters(-3)
            about[f"ExtMax{i}"] = characters(-3 + length * step)
        for c, name in enumerate(("membrane", "nuclei")):
            info.create_group(f"Channel {c}").attrs["Name"] = characters(name)
            for t in range(2):
                for level in range(2):
                    values = whole[t, c] if level == 0 else whole[t, c, :, ::2, ::2]
                    group = file.create_group(f"DataSet/ResolutionLevel {level}/TimePoint {t}/Channel {c}")
                    for axis, length in zip("ZYX", values.shape):
                        group.attrs[f"ImageSize{axis}"] = characters(length)
                    padded = np.pad(values, [(0, -n % 8) for n in values.shape])
                    group.create_dataset("Data", data=padded, chunks=(LEAST,) * 3, compression="gzip")
    return Made(folder / "a.ims", whole[1], SPACING, ("membrane", "nuclei"), {"time": 1}, levels=1)


BDV_XML = """<?xml version="1.0" encoding="UTF-8"?>
<SpimData version="0.2"><BasePath type="relative">.</BasePath><SequenceDescription>
<ImageLoader format="bdv.hdf5"><hdf5 type="relative">a.h5</hdf5></ImageLoader><ViewSetups>{setups}
<Attributes name="channel">
<Channel><id>0</id><name>membrane</name></Channel><Channel><id>1</id><name>nuclei</name>
</Channel></Attributes></ViewSetups>
<Timepoints type="range"><first>0</first><last>0</last></Timepoints></SequenceDescription></SpimData>"""
BDV_SETUP = """<ViewSetup><id>{c}</id><name>{c}</name><size>45 33 5</size>
<voxelSize><unit>nanometer</unit><size>200 300 2000</size></voxelSize>
<attributes><illumination>0</illumination><channel>{c}</channel><tile>{tile}</tile><angle>0</angle></attributes>
</ViewSetup>"""


def write_bdv(folder: Path, values: np.ndarray, tiles: tuple[int, int] = (0, 0)) -> Path:
    setups = "".join(BDV_SETUP.format(c=c, tile=tile) for c, tile in enumerate(tiles))
    (folder / "a.xml").write_text(BDV_XML.format(setups=setups))
    with h5py.File(folder / "a.h5", "w") as file:
        for c in range(2):
            file[f"s{c:02d}/resolutions"] = np.array([[1, 1, 1], [2, 2, 1]], float)
            file[f"s{c:02d}/subdivisions"] = np.array([[16, 16, 4], [16, 16, 4]], np.int32)
            for level, step in enumerate((1, 2)):
                cells = values[c, :, ::step, ::step].view(np.int16)
                file.create_dataset(f"t00000/s{c:02d}/{level}/cells", data=cells, chunks=(4, 16, 16))
    return folder / "a.h5"


@maker
def hdf5_bigdataviewer(folder: Path) -> Made:
    truth = image(2, 5, 33, 45)
    return Made(write_bdv(folder, truth), truth, SPACING, ("membrane", "nuclei"), levels=1)


# the rest


@maker
def nifti(folder: Path) -> Made:
    truth = image(1, 9, 33, 45, dtype="int16")
    volume = nibabel.Nifti1Image(truth[0].T, np.diag([0.0002, 0.0003, 0.002, 1]))
    volume.header.set_xyzt_units("mm", "sec")
    nibabel.save(volume, folder / "a.nii")
    return Made(folder / "a.nii", truth, SPACING)


@maker
def nifti_packed_scaled_time(folder: Path) -> Made:
    whole = image(2, 9, 33, 45, dtype="int16")
    volume = nibabel.Nifti2Image(whole.T, np.diag([0.2, 0.3, 2, 1]))
    volume.header.set_xyzt_units("micron", "sec")
    nibabel.save(volume, folder / "b.nii")
    stored = nibabel.load(folder / "b.nii")
    header = stored.header.copy()
    header["scl_slope"], header["scl_inter"] = 0.5, 3.0
    import gzip

    with gzip.open(folder / "a.nii.gz", "wb") as file:
        header["vox_offset"] = len(header.binaryblock) + 4
        file.write(header.binaryblock + b"\0" * 4 + whole.tobytes())
    return Made(folder / "a.nii.gz", (whole[1] * 0.5 + 3).astype("f4")[None], SPACING, options={"time": 1})


@maker
def npy(folder: Path) -> Made:
    truth = image(1, 9, 33, 45, dtype="float64")
    np.save(folder / "a.npy", truth[0])
    return Made(folder / "a.npy", truth)


@maker
def npy_fortran_with_axes(folder: Path) -> Made:
    truth = image(3, 9, 33, 5, dtype=">u4")
    np.save(folder / "a.npy", np.asfortranarray(np.moveaxis(truth, 0, -1)))
    return Made(folder / "a.npy", truth, SPACING, options={"axes": "ZYXC", "spacing": SPACING})


@maker
def png(folder: Path) -> Made:
    truth = image(3, 1, 33, 45)
    (folder / "a.png").write_bytes(imagecodecs.png_encode(np.moveaxis(truth[:, 0], 0, -1).copy()))
    return Made(folder / "a.png", truth, channels=("red", "green", "blue"))


@maker
def jpeg(folder: Path) -> Made:
    Image.fromarray(image(33, 45, dtype="uint8")).save(folder / "a.jpg")
    return Made(folder / "a.jpg", np.asarray(Image.open(folder / "a.jpg"))[None, None])


@maker
def sequence_of_png(folder: Path) -> Made:
    truth = image(1, 12, 20, 30, dtype="uint8")
    for z, plane in enumerate(truth[0]):
        Image.fromarray(plane).save(folder / f"plane_{z}.png")
    (folder / "notes.txt").write_text("no image")
    return Made(folder, truth, SPACING, options={"many": "sequence", "spacing": SPACING})


@maker
def sequence_of_tiff(folder: Path) -> Made:
    truth = image(2, 11, 90, 100)
    for z in range(truth.shape[1]):
        tifffile.imwrite(folder / f"Z{z}.ome.tif", truth[:, z], ome=True, metadata={"axes": "CYX"})
    return Made(folder, truth, options={"many": "sequence"})
