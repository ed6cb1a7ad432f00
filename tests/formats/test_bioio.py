"""CZI, ND2 and LIF: the line that installs the readers; what is made of what they say (by a stand-in)."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import dask.array
import numpy as np
import pytest

from aequorea.errors import FormatError
from aequorea.formats import bioio
from aequorea.workflows.open import open, open_many

VALUES = np.arange(2 * 2 * 3 * 4 * 5, dtype="u2").reshape(2, 2, 3, 4, 5)


class StandIn:
    """Answers as ``bioio.BioImage`` does."""

    scenes = ("first", "second")

    def __init__(self, path: object) -> None:
        if "damaged" in str(path):
            raise ValueError("not a microscope's file\nat all")
        self.offset = 0
        self.dims = SimpleNamespace(order="TCZYX")
        self.physical_pixel_sizes = SimpleNamespace(Z=2.0, Y=0.3, X=0.2)
        self.channel_names = ["membrane", "nuclei"]

    def set_scene(self, name: str) -> None:
        self.offset = self.scenes.index(name) * 1000

    @property
    def dask_data(self) -> dask.array.Array:
        return dask.array.from_array(VALUES + self.offset, chunks=(1, 1, 1, 4, 5))


@pytest.fixture
def stand_in(monkeypatch):
    for name in ("bioio", "bioio_czi"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.BioImage = StandIn
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("suffix", ["czi", "nd2", "lif"])
def test_without_the_extra(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(bioio, "find_spec", lambda name: None)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"anything")
    with pytest.raises(FormatError, match=f"{suffix.upper()} needs bioio: pip install bioio bioio-{suffix}"):
        open(path)


def test_without_the_reader(tmp_path, stand_in):
    (tmp_path / "a.nd2").write_bytes(b"anything")
    with pytest.raises(FormatError, match="pip install bioio bioio-nd2"):
        open(tmp_path / "a.nd2")


def test_a_damaged_file(tmp_path, stand_in):
    (tmp_path / "damaged.czi").write_bytes(b"anything")
    with pytest.raises(FormatError, match=r"damaged.czi: cannot be read as CZI \(not a microscope's file\)"):
        open(tmp_path / "damaged.czi")


def test_with_it(tmp_path, stand_in):
    path = tmp_path / "a.czi"
    path.write_bytes(b"anything")
    with pytest.raises(FormatError, match=r"2 images \(0 'first', 1 'second'\); pick one with --scene"):
        open(path)
    volume = open(path, scene="second", time=1)
    assert volume.spacing == (2.0, 0.3, 0.2)
    assert volume.channels == ("membrane", "nuclei")
    assert volume.chunks == (1, 4, 5)
    np.testing.assert_array_equal(volume.read(), VALUES[1] + 1000)
    assert len(list(open_many(path))) == 4


@pytest.mark.parametrize(("module", "name"), [("h5py", "a.h5"), ("nibabel", "a.nii")])
def test_other_extras(tmp_path, monkeypatch, make, module, name):
    from aequorea.formats import hdf5, nifti

    made = make("hdf5_plain" if module == "h5py" else "nifti", tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    hdf5._h5py.cache_clear()
    nifti._nibabel.cache_clear()
    with pytest.raises(FormatError, match=rf"needs {module}: pip install 'aequorea\[formats\]'"):
        open(made.path, **made.options)
