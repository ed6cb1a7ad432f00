"""A model: a network, its task, and a card that says what it is and how it came to be. One safetensors file.

The card is JSON in the file's header (key ``aequorea``):

``format``, ``version``
    of the card, and of the package that wrote it
``task``, ``backbone``
    recipes: name and fields
``forest``
    whether the head is a random forest
``channels``
    of the images
``spacing``
    voxel size in µm (z, y, x) at training; ``null`` where it was not known
``object_um``
    median diameter of the training objects in µm (``instances`` alone)
``point``
    operating point chosen on held-out labels (``threshold``, ``persistence``); empty: the task's own holds
``normalisation``, ``source``
    of a published network: how its images are scaled, and the file that its weights came from
``intensities``
    of each training image: percentiles and histogram by which it was normalised
``halo_error``
    how far the default halo is from the full reach, in counts of the stored 8 bits
``training``
    steps, held-out score before the first step (``first``) and the best, its step, its name, the score of each
    candidate, names of the items trained on and held out
``self_check``
    16 numbers that the network must give for a fixed input: a file that loads but computes something else is
    refused
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from aequorea import __version__
from aequorea.engine.counts import in_counts, is_counted
from aequorea.engine.durable import write_file
from aequorea.engine.inference import Precision
from aequorea.engine.predict import normalised, predict_whole
from aequorea.engine.tiles import Tiling
from aequorea.errors import DataError, ModelError, SpecError
from aequorea.layers.forest import ForestHead
from aequorea.layers.mirrored import Mirrored
from aequorea.layers.network import PROBE, Network
from aequorea.registry import build, describe, find, names
from aequorea.results import MemoryOutput, Result
from aequorea.signal.intensity import Intensity, measure
from aequorea.signal.published_intensity import published_intensity
from aequorea.volume import Array, Spacing, Volume, from_array

CARD = "aequorea"
BODY = "backbone."
TOLERANCE = 1e-3


@dataclass
class Model:
    """A network with its task and card.

    Attributes
    ----------
    task
        Built from its spec.
    network
        Stem, backbone and head.
    card
        Plain data: see the module's docstring.
    """

    task: Any
    network: Network
    card: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        task: Any,
        backbone: dict[str, Any],
        spacing: Spacing | None,
        channels: int = 1,
        forest: bool = False,
    ) -> Model:
        """Return an untrained model for a (resolved) task.

        Parameters
        ----------
        task
            Registered task object.
        backbone
            ``{"name": ..., **fields}``.
        spacing
            Voxel size in µm (z, y, x) that it will be trained at.
        channels
            Of the images.
        forest
            Whether the head is a random forest, for classes on a body that does not train.

        Raises
        ------
        SpecError
            If a forest is asked for a task that it cannot serve.
        """
        body = build("backbones", backbone)
        if forest and not hasattr(task, "outputs"):
            raise SpecError("a forest tells classes apart and nothing else: use it with --task semantic")
        stem = task.stem()
        layout = body.layout(stem.domain(PROBE, spacing)[1])
        head = ForestHead(task.outputs) if forest else task.head(layout)
        return cls.of(task, Network(stem, body, head), spacing, channels, forest)

    @classmethod
    def of(
        cls,
        task: Any,
        network: Network,
        spacing: Spacing | None,
        channels: int = 1,
        forest: bool = False,
        **facts: Any,
    ) -> Model:
        """Return a network as a model, with the card that says what it is; ``facts`` are further words of the card."""
        card: dict[str, Any] = {
            "spacing": list(spacing) if spacing else None,
            "channels": channels,
            "forest": forest,
            "point": {},
        }
        return cls(task, network, {**card, **facts})

    @property
    def spacing(self) -> Spacing | None:
        """Voxel size in µm (z, y, x) at training; ``None`` where it was not known."""
        spacing = self.card.get("spacing")
        return (float(spacing[0]), float(spacing[1]), float(spacing[2])) if spacing else None

    @property
    def point(self) -> dict[str, float]:
        """Operating point: calibrated thresholds, empty where the task's own hold."""
        return dict(self.card.get("point", {}))

    def usual_intensity(self, image: Volume) -> Intensity | None:
        """Return the range that a published network's images are scaled by; ``None`` for networks trained here."""
        kind = self.card.get("normalisation")
        return published_intensity(image, kind) if kind else None

    def intensity_of(self, image: Volume) -> Intensity:
        """Return the range to normalise an image by: that of a published network, or the image's own percentiles."""
        return self.usual_intensity(image) or measure(image)

    def check_channels(self, image: Volume) -> None:
        """Raise :class:`DataError` if an image has another number of channels than those trained on."""
        channels = int(self.card.get("channels", 1))
        if image.shape[0] != channels:
            raise DataError(
                f"{image.name}: {image.shape[0]} channels, but the model was trained on {channels}; "
                f"pick with --channel ({', '.join(image.channels)})"
            )

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all; returns its path."""
        path = Path(path)
        card = dict(self.card)
        card["format"] = 1
        card["version"] = __version__
        card |= self._recipes()
        card["self_check"] = self._check()
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        write_file(path, save(tensors, metadata={CARD: json.dumps(card)}))
        self.card = card
        return path

    @property
    def digest(self) -> str:
        """A digest of the weights and of all that decides a prediction: of a model and of its file the same."""
        facts = {word: self.card.get(word) for word in ("spacing", "channels", "point", "normalisation")}
        digest = hashlib.sha256(json.dumps(self._recipes() | facts, sort_keys=True).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:32]

    def _recipes(self) -> dict[str, Any]:
        """Return the recipes of task and backbone, as the card holds them."""
        plugs = {"task": self.task, "backbone": self.network.backbone}
        return {word: describe(f"{word}s", _name(f"{word}s", plug), plug) for word, plug in plugs.items()}

    def _check(self) -> list[float]:
        """Return 16 numbers of the output for an input that is fixed by a seed."""
        planes = min(16, getattr(self.network.stem, "most_planes", 16))  # a stem may not take more
        tiling = Tiling.of(self.network, (planes, 32, 32), self.spacing)
        shape = (1, int(self.card.get("channels", 1)), *tiling.reads(tiling.domain).size)
        noise = np.random.Generator(np.random.Philox(16)).standard_normal(shape, np.float32)
        network = self.network.eval().float().cpu()
        with torch.inference_mode():
            out = network(torch.from_numpy(noise), tiling.body_spacing).flatten().double()
        picked = out[torch.linspace(0, out.numel() - 1, 16).long()]
        return [round(float(v), 6) for v in picked]

    @property
    def mirrored(self) -> Mirrored:
        """The network as one that sees an image and its mirror images."""
        return Mirrored(self.network).eval()

    def predict(
        self,
        image: Volume | Array,
        spacing: Spacing | None = None,
        *,
        intensity: Intensity | None = None,
        precision: Precision = "auto",
        point: dict[str, float] | None = None,
        mirrored: bool = False,
    ) -> Result:
        """Return layers and tables for an image that fits into memory.

        Parameters
        ----------
        image
            A volume, or an array of axes Y X, Z Y X or C Z Y X.
        spacing
            Voxel size in µm of an array.
        intensity
            Percentiles to normalise by; measured on the image where not given.
        precision
            To compute in.
        point
            Operating point in place of the card's.
        mirrored
            Whether to take the mean over the image and its mirror images, at eight times the work or more.

        Raises
        ------
        DataError
            If the image has another number of channels than those trained on.
        """
        volume = image if isinstance(image, Volume) else from_array(image, spacing)
        self.check_channels(volume)
        intensity = intensity or self.intensity_of(volume)
        ranged = normalised(volume, intensity)
        network = self.mirrored if mirrored else self.network
        dense = predict_whole(network, self.task, ranged, self.spacing, precision)
        if is_counted(self.task):
            dense = in_counts(dense, intensity, volume.dtype)
        with tempfile.TemporaryDirectory() as scratch:
            out = MemoryOutput(Path(scratch))
            self.task.decode(dense, volume, out, self.point if point is None else point)
            return out.result


def load(path: str | Path) -> Model:
    """Read a model file.

    Raises
    ------
    ModelError
        If the file is missing, no model of this package, or computes something else than when it was saved.
    """
    path = Path(path)
    card, tensors = _read(path)
    if "task" not in card:
        raise ModelError(f"{path}: a body without a task: fine-tune it with --model {path}")
    model = Model.build(
        build("tasks", card["task"]),
        card["backbone"],
        tuple(card["spacing"]) if card["spacing"] else None,
        card["channels"],
        card["forest"],
    )
    _fill(model.network, tensors, path)
    model.network.eval()
    model.card = card
    now, then = np.array(model._check()), np.array(card["self_check"])
    if not np.allclose(now, then, atol=TOLERANCE * max(1.0, float(np.abs(then).max()))):
        raise ModelError(
            f"{path}: the network no longer computes what it did when it was saved "
            f"(largest difference {np.abs(now - then).max():.3g}): saved with version {card['version']}"
        )
    return model


def save_body(path: str | Path, body: Any, card: dict[str, Any]) -> Path:
    """Write a backbone that has no task yet, with its card, whole or not at all; returns its path."""
    words = describe("backbones", _name("backbones", body), body)
    card = {**card, "format": 1, "version": __version__, "backbone": words}
    tensors = {f"{BODY}{k}": v.detach().cpu().contiguous() for k, v in body.state_dict().items()}
    write_file(Path(path), save(tensors, metadata={CARD: json.dumps(card)}))
    return Path(path)


def card_of(path: str | Path) -> dict[str, Any]:
    """Return the card of a model or body file; that of a body has no ``task``. Raises as :func:`load`."""
    return _read(Path(path), weights=False)[0]


def take_body(body: Any, path: str | Path) -> None:
    """Give a backbone the weights of that in a model or body file.

    Raises
    ------
    ModelError
        If the file is missing or no model of this package, or holds another backbone.
    """
    _, tensors = _read(Path(path))
    _fill(body, {k.removeprefix(BODY): v for k, v in tensors.items() if k.startswith(BODY)}, Path(path))


def model_file(path: str | Path) -> Path:
    """Return the model's file: the path itself, or that of a run folder."""
    path = Path(path)
    return path / "model.safetensors" if path.is_dir() else path


def _read(path: Path, weights: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    path = model_file(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in (file.keys() if weights else ())}
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: no whole safetensors file ({error})") from None
    if CARD not in metadata:
        raise ModelError(f"{path}: no model card in the file: was it written by 'aequorea finetune'?")
    return json.loads(metadata[CARD]), tensors


def _fill(module: Any, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(f"{path}: weights do not fit: {str(error).splitlines()[1].strip()}") from None


def _name(kind: str, plug: Any) -> str:
    """Return the registered name of a plug's class."""
    for name in names(kind):
        try:
            if find(kind, name) is type(plug):
                return name
        except ImportError:
            continue
    raise ModelError(f"{type(plug).__name__} is not registered: add an entry point to 'aequorea.{kind}'")
