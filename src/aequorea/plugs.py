"""The contracts of the five kinds of plug, and of the parts that a network is made of.

Geometry is settled by three words, all on Z Y X voxel grids:

- the stem says on which grid the body works for an image of some size (``domain``) and what must be read of the
  image for a region of the body's grid (``reads``);
- the backbone says of which multiples tiles must be (``Layout.grid``) and how far a voxel sees (``Layout.reach``);
- the head says where the output of a body region lies (``output_grid``).

The engine knows nothing else of a network, so super-resolution, projection and light-field reconstruction go
through the same tiles as segmentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from aequorea.annotations import Annotation
from aequorea.results import Output, Result
from aequorea.specs import Spec
from aequorea.volume import ORIGIN, Array, Region, Spacing, Triple, Volume

if TYPE_CHECKING:
    from torch import Tensor, nn

Placement = tuple[Triple, Spacing | None]
"""The voxels (z, y, x) and spacing of a grid."""


@dataclass(frozen=True)
class Layout:
    """What a backbone gives at one spacing.

    Attributes
    ----------
    channels
        Channels of each level of the pyramid, finest first.
    strides
        Voxels of the body's grid per step of each level, (z, y, x).
    grid
        Tile origins are multiples of this.
    reach
        Voxels of context on each side beyond which nothing changes a voxel; ``None`` where it is the whole image.
    halo
        Context that is computed by default: less than the reach where its outer part hardly matters. What that
        costs in exactness is measured after training and stands in the model's card.
    held
        Memory that computing a tile takes at its peak, in multiples of the finest level.
    flat
        Planes that are held beside that, whatever the tile's depth: a wide tile weighs more than a deep one of as many
        voxels.
    """

    channels: tuple[int, ...]
    strides: tuple[Triple, ...]
    grid: Triple
    reach: Triple | None
    halo: Triple
    held: float = 3.0
    flat: int = 0


class Backbone(Protocol):
    """The body: an ``nn.Module`` with ``forward(x_BCZYX, spacing, origin) -> [level_BCZYX, ...]``, finest first.

    Input of any size: the body pads what it needs at the far ends and crops its levels back to
    ``ceil(size / stride)``. ``ndim`` is 2 or 3; a 2-D body receives planes as batch. ``points`` names the modules to
    which adapters attach. ``trainable`` is false for a fixed bank of filters: only the head is fitted then.

    A body in 3-D with ``cuts = True`` takes a fourth argument, a region of x, and makes its finest level of that alone.
    """

    Spec: ClassVar[type[Spec]]
    spec: Any
    ndim: int
    trainable: bool
    points: tuple[str, ...]

    def layout(self, spacing: Spacing | None) -> Layout:
        """Return channels, strides, grid and reach at a spacing."""

    def __call__(self, x: Tensor, spacing: Spacing | None, origin: Triple = ORIGIN) -> list[Tensor]:
        """Return the pyramid, finest first; ``origin`` is where x begins on the body's grid (for anchored windows)."""


class Head(Protocol):
    """Dense channels from the pyramid: an ``nn.Module`` with ``forward(levels, x) -> output_BKZYX``.

    ``x_BCZYX`` is what the stem gave the body, to whose region the output belongs (it covers ``output_grid`` of it):
    its size says where coarser levels are to be cropped, and a restoration is what is to be added to it. One that looks
    beyond a voxel, at its neighbours in the finest level, says so: ``reach``, in voxels (z, y, x) of the body's grid.
    With ``local = True`` it looks at the finest level and x alone, no farther than that, and is given no more.

    One that makes ``between`` planes of each, the first of which lies on it, and that has learnt stacks from both
    sides, says how many: where mirror images are asked for, those along z are then looked at, too.

    One with ``uncropped = True`` gets the levels as the body computed them, with what it padded at the far ends, where
    the body has a method ``uncropped`` (arguments as ``forward``), and crops its output itself: published networks
    convolve first and crop afterwards.
    """

    def __call__(self, levels: list[Tensor], x: Tensor) -> Tensor:
        """Return the output channels."""

    def output_grid(self, region: Region, spacing: Spacing | None) -> tuple[Region, Spacing | None]:
        """Return where the output of a body region lies, and its spacing."""


class Stem(Protocol):
    """What is read, as the body wants it: an ``nn.Module`` with ``forward(image_BCZYX) -> x_BCZYX``.

    Where a voxel of its output depends on neighbours it has a ``reach`` as a head has, and pads at the ends of what it
    is given: those are ends of the image, or so far out that what comes of them is thrown away. A ``reach`` of
    ``None``: it depends on the whole image.

    What it ``reads`` may lie outside of the image. There it finds NaN, which no normalised image holds, and puts in
    what it likes.
    """

    def domain(self, size: Triple, spacing: Spacing | None) -> Placement:
        """Return the body's grid for an image of ``size`` voxels; its spacing is the same for every size."""

    def reads(self, region: Region, size: Triple) -> Region:
        """Return what must be read of an image of ``size`` voxels for a region of the body's grid."""

    def __call__(self, image: Tensor) -> Tensor:
        """Turn what was read into the body's input."""


class Task(Protocol):
    """What comes out of a network: how its output is taught, stored, decoded and scored.

    Attributes
    ----------
    over
        ``"voxels"`` (tiled, dense) or ``"items"`` (one answer per file).
    annotation
        What it learns from: ``"label"``, ``"image"``, ``"points"`` or ``"class"``.
    dense_channels, dense_dtype
        Of the stored output. 8 bits suffice for probabilities and heights.
    skips_constant
        Whether an image of one constant value means that nothing is there: then such tiles are stored as 0
        and not computed. False where the output of a constant is not 0, as in restoration.
    better
        The score that evaluations compare (higher is better).

    A restoration also has ``in_counts = True``: training targets are brought to the units of their normalised images,
    and ``decode`` is given the stored output in the image's own counts and type. ``anchor = "corner"`` says
    that of a finer target the voxels between those of the image were left out, and not averaged.
    """

    Spec: ClassVar[type[Spec]]
    spec: Any
    over: Literal["voxels", "items"]
    annotation: Literal["label", "image", "points", "class"]
    skips_constant: bool
    better: str

    @property
    def dense_channels(self) -> tuple[str, ...]:
        """Names of the stored output's channels."""

    @property
    def dense_dtype(self) -> str:
        """Type of the stored output."""

    def resolve(self, annotations: Sequence[Annotation]) -> Self:
        """Return the task with everything in its spec that the training annotations decide (classes, sizes)."""

    def facts(self, annotations: Sequence[Annotation]) -> dict[str, float]:
        """Return what a model's card keeps of its training annotations (``object_um``), maybe nothing."""

    def stem(self) -> nn.Module:
        """Return the stem that reads what this task's input needs."""

    def head(self, layout: Layout) -> nn.Module:
        """Return the head for a backbone's layout."""

    def target(self, annotation: Annotation, spacing: Spacing | None) -> Volume:
        """Return what the output should be, computed on the whole annotation: float, NaN where unlabelled."""

    def strata(self, target: Array) -> Array:
        """Return, per voxel (int8, axes Z Y X), the kind to sample evenly; -1 where unlabelled."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of ``output_BKZYX`` against ``target_BTZYX``; 0 where nothing is labelled."""

    def store(self, output: Tensor) -> Tensor:
        """Return the output in ``dense_dtype``, axes B K Z Y X."""

    def decode(self, dense: Volume, image: Volume | None, out: Output, point: dict[str, float]) -> None:
        """Turn the stored output into layers and tables, block by block."""

    def calibrate(self, dense: Sequence[Volume], truth: Sequence[Annotation]) -> dict[str, float]:
        """Return the operating point (thresholds) that serves held-out crops best."""

    def score(self, result: Result, truth: Annotation, spacing: Spacing | None) -> dict[str, float]:
        """Return named scores of a decoded result."""


class Objective(Protocol):
    """What is learnt without labels. ``prepare`` runs on the loader's side, ``forward`` on the device.

    One that owns modules is an ``nn.Module``; those whose size depends on the body are of PyTorch's lazy kind
    (``nn.LazyConv3d``): one sample is run before training begins.

    Four more methods are used where there are any: ``survey(patch, backbone, spacing, rng)`` returns plain data about
    a volume, found when it is first drawn, which ``prepare`` gets as ``facts`` (it may ask the backbone for its layout,
    but not run it, since it is being trained); ``residuals(backbone, batch, spacing)`` returns sums of
    squared errors for each sample, of the network and of its rivals, for the table of held-out volumes;
    ``pictures(backbone, batch, spacing)`` returns images_B1ZYX by name, for the report. One that trains tasks returns
    (task, network) by name from ``models(backbone, batches)``, batches being more of what it was trained on, each with
    its spacing: they are saved beside the body. One whose recipe has ``pairs``, a dataset by task, gets them (image and
    target, normalised) with ``take(recorded, patches)``.
    """

    Spec: ClassVar[type[Spec]]
    spec: Any

    def prepare(self, patch: Array | None, rng: Any, facts: Any = None) -> dict[str, Array]:
        """Return the arrays of one sample of ``patch_CZYX`` (normalised); with no patch it generates one."""

    def __call__(
        self, backbone: nn.Module, batch: dict[str, Tensor], spacing: Spacing | None
    ) -> dict[str, Tensor]:
        """Return named scalar losses, means over the batch."""

    def after_step(self, step: int) -> None:
        """Update teachers and queues."""


class Adapter(Protocol):
    """How a trained body is bent to new data with few numbers."""

    Spec: ClassVar[type[Spec]]
    spec: Any

    def attach(self, backbone: nn.Module, points: Sequence[str]) -> list[str]:
        """Change the body in place and return the names of the parameters that train."""

    def merge(self, backbone: nn.Module) -> None:
        """Fold the change into the body's own weights and take the adapter out."""


@dataclass(frozen=True)
class OpenOptions:
    """What the user says about a file where its metadata does not.

    Attributes
    ----------
    axes
        One letter per array axis (``"TCZYX"`` in any order).
    spacing
        Voxel size in µm (z, y, x), overriding the file's.
    channel, time, scene, level
        What to pick; ``channel`` by number or name, several separated by commas.
    dataset
        Path of the array inside a container (HDF5, Zarr).
    many
        For folders of 2-D images: ``"sequence"`` (one volume) or ``"each"``.
    """

    axes: str | None = None
    spacing: Spacing | None = None
    channel: str | None = None
    time: int | None = None
    scene: int | str | None = None
    level: int | None = None
    dataset: str | None = None
    many: Literal["sequence", "each"] | None = None


class Format(Protocol):
    """A kind of file. A class: built without a spec, stateless."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    def sniff(self, path: Path) -> bool:
        """Whether the file is of this format, by suffix and first bytes; cheap, never raises."""

    def open(self, path: Path, options: OpenOptions) -> Volume:
        """Open lazily; raises :class:`aequorea.errors.FormatError` naming the file and the flag that helps."""

    def list(self, path: Path) -> Iterator[dict[str, str]]:
        """Yield the scenes (or wells, datasets) that the file holds, each as printable facts."""
