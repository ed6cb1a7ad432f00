"""Published weights of the foundation model for restoration (UniFMIR) as networks and model files of this package.

All sizes are inferred from the tensors. Every name of the file is accounted for: used; recomputed (masks and places,
which follow from sizes and are compared with ours); not used, since the published network does not use it either; or
unexpected.

Ma et al., "Pretraining a foundation model for generalizable fluorescence microscopy-based image restoration" (Nature
Methods 21, 2024).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from aequorea.backbones.swinir import SwinIR, SwinIRSpec
from aequorea.errors import ModelError, SpecError, nearest
from aequorea.layers.network import Network
from aequorea.layers.published import PublishedSpec, TaskName, published_head, published_stem
from aequorea.layers.swin import APART, relative_places
from aequorea.model import Model
from aequorea.registry import build
from aequorea.workflows.foreign import read_state_dict

BLOCK = r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\."
DERIVED = (rf"(denoise\.)?{BLOCK}attn_mask", rf"(denoise\.)?{BLOCK}attn\.relative_position_index")
STOCHASTIC_DEPTH = 0.1
"""Of the published training; a file does not say it, and training goes on as it was."""
UNUSED = (r"project\.(sub|add)_mean\.(weight|bias)",)

BODY = (
    (r"backbone\.first\.", "conv_first{first}."),
    (r"backbone\.embed_norm\.", "patch_embed.norm."),
    (r"backbone\.norm\.", "norm."),
    (r"backbone\.last\.", "conv_after_body."),
    (r"backbone\.groups\.(\d+)\.conv\.", r"layers.\1.conv."),
    (
        r"backbone\.groups\.(\d+)\.blocks\.(\d+)\.bias$",
        r"layers.\1.residual_group.blocks.\2.attn.relative_position_bias_table",
    ),
    (r"backbone\.groups\.(\d+)\.blocks\.(\d+)\.before\.", r"layers.\1.residual_group.blocks.\2.norm1."),
    (r"backbone\.groups\.(\d+)\.blocks\.(\d+)\.between\.", r"layers.\1.residual_group.blocks.\2.norm2."),
    (
        r"backbone\.groups\.(\d+)\.blocks\.(\d+)\.(qkv|proj)\.",
        r"layers.\1.residual_group.blocks.\2.attn.\3.",
    ),
    (r"backbone\.groups\.(\d+)\.blocks\.(\d+)\.up\.", r"layers.\1.residual_group.blocks.\2.mlp.fc1."),
    (r"backbone\.groups\.(\d+)\.blocks\.(\d+)\.down\.", r"layers.\1.residual_group.blocks.\2.mlp.fc2."),
    (r"head\.(tail\.)?narrow\.", "conv_before_upsample{tail}.0."),
    (r"head\.(tail\.)?last\.", "conv_last{tail}."),
)
"""Our names (patterns) and those of the file; ``{first}`` and ``{tail}`` are suffixes of the files of several tasks."""
SURFACE = (
    (r"stem\.first\.", "project.head.0."),
    (r"stem\.last\.", "project.tl.1."),
    (r"stem\.body\.(\d+)\.one\.", r"project.body.\1.body.0."),
    (r"stem\.body\.(\d+)\.two\.", r"project.body.\1.body.2."),
    (r"stem\.body\.(\d+)\.query\.", r"project.body.\1.conv_match1.0."),
    (r"stem\.body\.(\d+)\.key\.", r"project.body.\1.conv_match2.0."),
    (r"stem\.body\.(\d+)\.value\.", r"project.body.\1.conv_assembly.0."),
    (r"stem\.body\.(\d+)\.projection$", r"project.body.\1.attn_fn.projection_matrix"),
    (r"stem\.body\.(\d+)\.", r"project.body.\1."),
)
LENSLETS = (
    (r"stem\.spread\.", "conv_first0.conv2d."),
    (r"stem\.doublings\.(\d+)\.one\.", r"conv_first0.layers.\1.0.0."),
    (r"stem\.doublings\.(\d+)\.two\.", r"conv_first0.layers.\1.1."),
    (r"stem\.smooth\.conv\.", "conv_first0.conv2d1.0."),
    (r"stem\.smooth\.norm\.", "conv_first0.conv2d1.1."),
    (r"stem\.widen\.conv\.", "conv_first0.conv2d2.0."),
    (r"stem\.widen\.norm\.", "conv_first0.conv2d2.1."),
    (r"stem\.encoder\.(\d+)\.conv\.", r"conv_first0.encoder_layers.\1.0."),
    (r"stem\.encoder\.(\d+)\.norm\.", r"conv_first0.encoder_layers.\1.1."),
    (r"stem\.decoder\.(\d+)\.conv\.", r"conv_first0.decoder_layers.\1.0."),
    (r"stem\.decoder\.(\d+)\.norm\.", r"conv_first0.decoder_layers.\1.2."),
)
SUFFIXES: dict[TaskName, tuple[str, str]] = {
    "super_resolve": ("sr", "0"),
    "denoise": ("dT", "0"),
    "isotropic": ("iso", "0"),
    "project": ("proj", "0"),
    "light_field": ("v", "v"),
}
"""Of the first convolution and of the tail, in the file of several tasks."""


@dataclass
class KeyReport:
    """What became of the names of a file."""

    used: list[str] = field(default_factory=list)
    recomputed: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return one line for each kind, with the names of those that are few or wrong."""
        told = [f"used {len(self.used)}", f"recomputed {len(self.recomputed)} (masks and places)"]
        told.append(f"not used by the published network either {len(self.unused)}")
        for word, found in (("missing", self.missing), ("unexpected", self.unexpected)):
            told.append(f"{word} {len(found)}" + (": " + ", ".join(found[:8]) if found else ""))
        return told


@dataclass
class Published:
    """One network of a file.

    Attributes
    ----------
    spec
        Of stem and head; says how the published images are normalised.
    network
        With the file's weights.
    channels
        That the body is given for one channel of the image.
    """

    spec: PublishedSpec
    network: Network

    @property
    def channels(self) -> int:
        """Of the body's first convolution."""
        return int(self.network.backbone.spec.channels)


@dataclass
class Converted:
    """What was written, and what to say about it."""

    paths: dict[str, Path]
    report: KeyReport
    lines: list[str]


def convert(
    path: str | Path,
    out: str | Path,
    task: str | None = None,
    partial: bool = False,
    shift: bool = True,
) -> Converted:
    """Write model files of a published file of weights.

    Parameters
    ----------
    path
        A ``.pt`` file, for one task or several.
    out
        The model file; of several tasks, a folder with one for each.
    task
        The one to write. Needed where a file fits several tasks and was made for one of them.
    partial
        Whether weights may be missing (they are drawn at random) and names be unknown.
    shift
        Whether every other block's windows are shifted, which the weights do not say.

    Raises
    ------
    ModelError
        If the file is none of these, or a weight is missing, unknown or of another shape.
    SpecError
        If there is no such task in the file.
    """
    tensors = read_state_dict(path)
    report = KeyReport()
    try:
        found = networks_of(tensors, partial=partial, shift=shift, report=report)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    several = "conv_firstproj.weight" in tensors
    if task is not None:
        if task not in found:
            raise SpecError(f"{path}: it holds no task '{task}'; {nearest(task, found)}")
        found = {name: one for name, one in found.items() if name == task}
    elif not several and len(found) > 1:
        raise SpecError(f"{path}: it may be for {' or '.join(found)}: say which with --task")
    paths = {}
    for name, one in found.items():
        paths[name] = Path(out) / f"{name}.safetensors" if len(found) > 1 else Path(out)
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        model_of(one, Path(path).name).save(paths[name])
    lines = [*report.lines(), *(f"{name}: {one.spec.normalisation}" for name, one in found.items())]
    return Converted(paths, report, lines)


def model_of(one: Published, source: str = "") -> Model:
    """Return a network as a model of the task that it is for; its card says how its images are to be scaled.

    Parameters
    ----------
    one
        The network.
    source
        Where the weights came from.
    """
    task = build("tasks", {"name": one.spec.task, "channels": 1, "published": one.spec.plain()})
    return Model.of(task, one.network, None, normalisation=one.spec.normalisation, source=source)


def build_published(spec: PublishedSpec, body: SwinIRSpec) -> Network:
    """Return the network of two recipes, with random weights."""
    return Network(published_stem(spec), SwinIR(body), published_head(spec, body.width))


def networks_of(
    tensors: dict[str, Tensor],
    partial: bool = False,
    shift: bool = True,
    report: KeyReport | None = None,
) -> dict[str, Published]:
    """Return the networks of published weights by task; several where the weights do not say what they are for.

    Parameters
    ----------
    tensors
        By the file's names, without ``module.``.
    partial, shift
        As for :func:`convert`.
    report
        Filled in.

    Raises
    ------
    ModelError
        If these are no such weights, or one is missing, unknown or of another shape.
    """
    report = KeyReport() if report is None else report
    found: dict[str, Published] = {}
    used: set[str] = set()
    several = any(f"conv_first{first}.weight" in tensors for first, _ in SUFFIXES.values())
    prefix = (
        "denoise." if "denoise.conv_first.weight" in tensors or "project.head.0.weight" in tensors else ""
    )
    if several:
        prefix = ""
    tasks = get_args(TaskName) if several else _tasks_of(tensors, prefix)
    for task in tasks:
        sizes = _Sizes(tensors, prefix, task, several)
        body, spec = sizes.body(shift), sizes.spec()
        network = build_published(spec, body).eval()
        _fill(network, tensors, sizes.names, partial, report, used)
        found[task] = Published(spec, network)
    report.used = sorted(used)
    for name in sorted(set(tensors) - used):
        if any(re.fullmatch(pattern, name) for pattern in DERIVED):
            report.recomputed.append(name)
            _compare(name, tensors[name], body.window)
        elif any(re.fullmatch(pattern, name) for pattern in UNUSED):
            report.unused.append(name)
        else:
            report.unexpected.append(name)
    if report.unexpected and not partial:
        raise ModelError(
            f"unexpected weight '{report.unexpected[0]}'{_more(report.unexpected)}; --partial leaves such out"
        )
    return found


def _tasks_of(tensors: dict[str, Tensor], prefix: str) -> list[TaskName]:
    """Return the tasks that the weights of one may be for."""
    if prefix:
        return ["project"]
    if "conv_first0.conv2d.weight" in tensors:
        return ["light_field"]
    if "upsample.0.weight" in tensors:
        return ["super_resolve"]
    first = _get(tensors, "conv_first.weight")
    if first.dim() != 4:
        raise ModelError("'conv_first.weight' is no convolution's: these are no weights of UniFMIR")
    return ["denoise"] if first.shape[1] > 1 else ["denoise", "isotropic"]


class _Sizes:
    """What the shapes of the weights of one task say.

    Parameters
    ----------
    tensors
        All of the file.
    prefix
        Of the body's names.
    task
        Whose.
    several
        Whether the file is for several tasks.
    """

    def __init__(self, tensors: dict[str, Tensor], prefix: str, task: TaskName, several: bool) -> None:
        self.tensors, self.prefix, self.task, self.several = tensors, prefix, task, several
        self.first, self.tail = SUFFIXES[task] if several else ("", "")

    def _of(self, name: str) -> Tensor:
        return _get(self.tensors, name)

    def body(self, shift: bool) -> SwinIRSpec:
        """Return the body's recipe. Sizes are taken from biases and norms, which cannot be transposed."""
        p = self.prefix
        width = len(self._of(f"{p}patch_embed.norm.weight"))
        name = f"{p}layers.0.residual_group.blocks.0.attn.relative_position_bias_table"
        table = self._of(name)
        if table.dim() != 2 or math.isqrt(len(table)) ** 2 != len(table) or len(table) % 2 == 0:
            raise ModelError(f"'{name}' of shape {list(table.shape)} is no table of the pixels of a window")
        hidden = len(self._of(f"{p}layers.0.residual_group.blocks.0.mlp.fc1.bias"))
        depths = self._depths()
        first = self._of(f"{p}conv_first{self.first}.weight")
        channels = first.shape[1] if first.dim() == 4 else 1
        words = {
            "channels": channels,
            "width": width,
            "depths": depths,
            "heads": table.shape[1],
            "window": (math.isqrt(len(table)) + 1) // 2,
            "mlp_ratio": hidden / width,
            "skip": self.task != "light_field" and not (self.several and self.task == "project"),
            "shift": shift,
            "sections": self.task == "isotropic",
            "stochastic_depth": STOCHASTIC_DEPTH,
        }
        return SwinIRSpec.parse(words, where="the file's sizes")

    def _depths(self) -> tuple[int, ...]:
        """Return the blocks of each group; those that a file leaves out at the end are not known of."""
        places: dict[tuple[int, int], str] = {}
        for name in self.tensors:
            found = re.match(re.escape(self.prefix) + BLOCK, name)
            if found:
                places.setdefault((int(found[1]), int(found[2])), name)
        counts: dict[int, int] = {}
        for group, block in sorted(places):
            if group > len(counts) or block != counts.get(group, 0):
                raise ModelError(f"'{places[group, block]}': blocks before it are missing")
            counts[group] = block + 1
        return tuple(counts.values())

    def spec(self) -> PublishedSpec:
        """Return the recipe of stem and head."""
        p = self.prefix
        middle = len(self._of(f"{p}conv_before_upsample{self.tail}.0.bias"))
        words = {"task": self.task, "middle": middle, **getattr(self, f"_{self.task}")()}
        return PublishedSpec.parse(words, where="the file's sizes")

    def _super_resolve(self) -> dict[str, int]:
        name = "upsamplesr" if self.several else "upsample"
        middle = len(self._of(f"conv_before_upsample{self.tail}.0.bias"))
        found = [n for n in self.tensors if re.fullmatch(rf"{name}\.\d+\.bias", n)]
        return {"scale": math.prod(math.isqrt(max(1, len(self.tensors[n]) // max(1, middle))) for n in found)}

    def _denoise(self) -> dict[str, int]:
        return {"planes": self._of(f"conv_first{self.first}.weight").shape[1]}

    def _isotropic(self) -> dict[str, int]:
        return {}

    def _project(self) -> dict[str, int]:
        numbers = [re.match(r"project\.body\.(\d+)\.(conv_match1|body)\.0\.bias", n) for n in self.tensors]
        attention = sorted(int(m[1]) for m in numbers if m and m[2] == "conv_match1")
        units = sorted(int(m[1]) for m in numbers if m and m[2] == "body")
        if not attention:
            raise ModelError("missing weight 'project.body.0.conv_match1.0.bias'")
        groups = len(attention) - 1
        name = "project.body.0.attn_fn.projection_matrix"
        for number in attention:
            if f"project.body.{number}.attn_fn.projection_matrix" not in self.tensors:
                raise ModelError(
                    f"missing 'project.body.{number}.attn_fn.projection_matrix', the random features that the weights "
                    "were trained with: nothing else can stand in for them; get the file as it was published"
                )
        matrix = self._of(name)
        return {
            "planes": self._of("project.head.0.weight").shape[1],
            "features": len(self._of("project.head.0.bias")),
            "matched": len(self._of("project.body.0.conv_match1.0.bias")),
            "random": len(matrix),
            "groups": groups,
            "units": len(units) // max(1, groups),
        }

    def _light_field(self) -> dict[str, int | tuple[int, ...]]:
        levels = [n for n in self.tensors if re.fullmatch(r"conv_first0\.encoder_layers\.\d+\.0\.bias", n)]
        pyramid = tuple(
            len(self._of(f"conv_first0.encoder_layers.{i}.0.bias")) for i in range(max(1, len(levels)))
        )
        return {
            "views": math.isqrt(self._of("conv_first0.conv2d.weight").shape[1]),
            "depth": len(self._of(f"conv_last{self.tail}.bias")),
            "start": len(self._of("conv_first0.conv2d.bias")),
            "base": len(self._of("conv_first0.conv2d2.0.bias")),
            "pyramid": pyramid,
        }

    def names(self, ours: str) -> str:
        """Return the file's name of one of our weights."""
        stage = {"project": SURFACE, "light_field": LENSLETS}.get(self.task, ())
        for pattern, theirs in stage:
            if re.match(pattern, ours):
                return re.sub(pattern, theirs, ours)
        finer = re.fullmatch(r"head\.finer\.(\d+)\.(weight|bias)", ours)
        if finer:
            return f"upsample{'sr' if self.several else ''}.{2 * int(finer[1])}.{finer[2]}"
        for pattern, theirs in BODY:
            if re.match(pattern, ours):
                theirs = theirs.replace("{first}", self.first).replace("{tail}", self.tail)
                return self.prefix + re.sub(pattern, theirs, ours)
        raise AssertionError(f"no name in the file for {ours}")


def _fill(
    network: Network,
    tensors: dict[str, Tensor],
    name_of: Callable[[str], str],
    partial: bool,
    report: KeyReport,
    used: set[str],
) -> None:
    """Give a network the file's weights."""
    filled = {}
    for ours, own in network.state_dict().items():
        name = name_of(ours)
        given = tensors.get(name)
        if given is not None and given.shape == own.shape:
            filled[ours] = given.to(own.dtype)
            used.add(name)
            continue
        if not partial:
            if given is None:
                raise ModelError(f"missing weight '{name}'; --partial draws such at random")
            shapes = f"of shape {list(given.shape)}, expected {list(own.shape)}"
            raise ModelError(f"weight '{name}' is {shapes}")
        filled[ours] = own
        if name not in report.missing:
            report.missing.append(name)
    network.load_state_dict(filled)


def _compare(name: str, given: Tensor, window: int) -> None:
    """Refuse derived numbers that are not what they are here: another order of tokens, another shift."""
    if name.endswith("relative_position_index"):
        same = torch.equal(given.long(), relative_places(window))
    else:
        side = math.isqrt(len(given)) if given.dim() == 3 else 0
        same = side**2 == (len(given) if given.dim() else -1) and _same_masks(given, side, window)
    if not same:
        raise ModelError(f"'{name}' is not what this network's windows are like")


def _same_masks(given: Tensor, side: int, window: int) -> bool:
    """Whether masks of side² windows set apart what comes from opposite borders."""
    length = window**2
    if given.shape[1:] != (length, length):
        return False
    late = torch.arange(window) >= window - window // 2
    for number, mask in enumerate(given):
        last = [number // side == side - 1, number % side == side - 1]
        y, x = (late if n else torch.zeros_like(late) for n in last)
        band = (2 * y[:, None] + x[None]).flatten()
        if not torch.equal(mask.float(), APART * (band[:, None] != band).float()):
            return False
    return True


def _get(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ModelError(f"missing weight '{name}': these are no whole weights of UniFMIR")
    return tensors[name]


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
