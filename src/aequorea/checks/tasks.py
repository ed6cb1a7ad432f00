"""What every task must do."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from aequorea.annotations import Annotation, ItemClass, LabelImage, Points, TargetImage
from aequorea.checks.models import SPACINGS, model, tiled, untrained
from aequorea.checks.recipes import claim, recipe
from aequorea.engine.tiles import Tiling
from aequorea.errors import AequoreaError
from aequorea.model import Model
from aequorea.results import MemoryOutput, Result
from aequorea.volume import Array, Region, Spacing, Triple, Volume, from_array

SIZE: Triple = (8, 24, 32)
SPACING: Spacing = (2.0, 1.0, 1.0)
BODY: dict[str, Any] = {"name": "unet", "levels": 2}


def task(name: str, **fields: Any) -> None:
    """Check a registered task on simulated annotations of the kind that it learns from.

    Its recipe; that targets lie where the output does; that the loss is finite and 0 where nothing is labelled,
    and that no gradient is lost; that decoding in blocks gives what decoding whole gives; that scoring bears
    empty and odd annotations; and models made of it.

    Parameters
    ----------
    name
        As registered.
    **fields
        Of its recipe.
    """
    bare = recipe("tasks", name, **fields)
    for word, known in (
        ("over", ("voxels", "items")),
        ("annotation", ("label", "image", "points", "class")),
        ("skips_constant", (True, False)),
    ):
        claim(getattr(bare, word, None) in known, f"{name}: '{word}' is not one of {known}")
    samples = [annotation(bare, seed) for seed in range(2)]
    resolved = bare.resolve(samples)
    claim(type(resolved) is type(bare), f"{name}: resolves to a {type(resolved).__name__}")
    claim(resolved.resolve(samples).spec == resolved.spec, f"{name}: resolving twice changes the recipe")
    json.dumps(resolved.facts(samples))
    made = untrained(resolved, BODY, SPACING)
    _targets_and_losses(name, made)
    _decoding(name, made)
    _odd_annotations(name, made)
    model(made)
    for seed, spacing in enumerate(SPACINGS):
        tiled(untrained(resolved, BODY, spacing, seed).network, spacing, over=resolved.over, seed=seed)


def annotation(bare: Any, seed: int = 0, *, empty: bool = False) -> Annotation:
    """Return a simulated annotation, of the kind that a task learns from, of an image of ``SIZE`` voxels.

    Parameters
    ----------
    bare
        The task.
    seed
        Of what is simulated.
    empty
        Whether there is nothing: background, a constant image, no points.
    """
    rng = np.random.default_rng(seed)
    if bare.annotation == "class":
        return ItemClass("ab"[seed % 2])
    if bare.annotation == "points":
        return Points(rng.uniform(0, SIZE, (0 if empty else 9, 3)), SIZE, SPACING)
    field = ndimage.gaussian_filter(rng.random(SIZE), 2)
    if bare.annotation == "label":
        labels = ndimage.label(field > np.quantile(field, 0.7))[0]
        classes = getattr(bare.spec, "classes", None)
        if isinstance(classes, int):  # of voxels, not of objects
            labels = np.minimum(labels, max(1, classes - 1))
        return LabelImage(from_array((0 if empty else 1) * labels.astype(np.uint16), SPACING))
    tiling = Tiling.of(untrained(bare, BODY, SPACING).network, SIZE, SPACING)
    size = tiling.output_size
    image = np.zeros(size) if empty else ndimage.gaussian_filter(rng.random(size), 1)
    return TargetImage(from_array(image.astype(np.float32), tiling.output_spacing))


def _targets_and_losses(name: str, made: Model) -> None:
    own = made.task
    truth = annotation(own)
    tiling = Tiling.of(made.network, SIZE, SPACING)
    target = own.target(truth, SPACING)
    claim(
        target.size == tiling.output_size,
        f"{name}: a target of {target.size} voxels where its output has {tiling.output_size}",
    )
    claim(
        target.dtype.kind == "f", f"{name}: its target is {target.dtype}, not float with NaN where unlabelled"
    )
    whole = target.read()
    part = Region.at([n // 3 for n in target.size], [max(1, n // 2) for n in target.size])
    claim(
        np.array_equal(target.read(part), whole[(slice(None), *part.slices)], equal_nan=True),
        f"{name}: a part of its target is not the part of the whole",
    )
    strata = own.strata(whole)
    claim(strata.shape == whole.shape[1:], f"{name}: strata of {strata.shape} for a target of {whole.shape}")
    claim(bool((strata >= 0).any()), f"{name}: strata say that nothing is labelled")
    claim(
        bool((own.strata(np.full_like(whole, np.nan)) == -1).all()) or own.over == "items",
        f"{name}: strata of unlabelled voxels are not -1",
    )
    _losses(name, made, tiling, torch.from_numpy(whole.astype(np.float32)))


def _losses(name: str, made: Model, tiling: Tiling, truth: torch.Tensor) -> None:
    network, own = made.network.train(), made.task
    torch.manual_seed(0)
    image = torch.randn(1, 1, *tiling.reads(tiling.domain).size)
    nothing = torch.full_like(truth, float("nan"))[None]
    half = truth[None].clone()
    half[..., : half.shape[-1] // 2] = float("nan")
    for what, target in (("labels", truth[None]), ("half the labels", half), ("nothing labelled", nothing)):
        network.zero_grad()
        output = network(image, tiling.body_spacing).float()
        claim(
            tuple(output.shape[2:]) == tiling.output_size,
            f"{name}: gives {tuple(output.shape[2:])} voxels where output_grid says {tiling.output_size}",
        )
        loss = own.loss(output, target)
        claim(bool(torch.isfinite(loss)), f"{name}: the loss is {loss.item()} with {what}")
        torch.autograd.backward(loss)
        found = {n: p.grad for n, p in network.named_parameters()}
        bad = [n for n, g in found.items() if g is not None and not bool(torch.isfinite(g).all())]
        claim(not bad, f"{name}: with {what} the gradient of {', '.join(bad[:3])} is not finite")
        if what == "labels":
            dead = [n for n, g in found.items() if n.startswith("head.") and (g is None or not g.any())]
            claim(not dead, f"{name}: no gradient reaches {', '.join(dead[:4])}")
        if what == "nothing labelled" and own.over == "voxels":
            live = [n for n, g in found.items() if g is not None and bool(g.any())]
            claim(not live, f"{name}: it learns from voxels that nobody labelled")
    network.eval()
    with torch.inference_mode():
        other = output.clone()
        other[..., : half.shape[-1] // 2] += 3.0
        same = torch.allclose(own.loss(output, half), own.loss(other, half))
    claim(same or own.over == "items", f"{name}: the loss depends on the output where nothing is labelled")


def _output(made: Model) -> tuple[int, Triple]:
    """Return channels and size of the output for an image of ``SIZE`` voxels."""
    tiling = Tiling.of(made.network, SIZE, SPACING)
    with torch.inference_mode():
        out = made.network(torch.zeros(1, 1, *tiling.reads(tiling.domain).size), tiling.body_spacing)
    return out.shape[1], tiling.output_size


def _dense(own: Any, output: torch.Tensor, spacing: Spacing | None, name: str) -> Volume:
    stored = own.store(output)[0].numpy()
    claim(str(stored.dtype) == own.dense_dtype, f"{name}: stores {stored.dtype}, says {own.dense_dtype}")
    claim(
        len(stored) == len(own.dense_channels),
        f"{name}: stores {len(stored)} channels, names {len(own.dense_channels)}",
    )
    return from_array(stored, spacing, own.dense_channels)


def _decoded(own: Any, dense: Volume, block: Triple | None = None) -> Result:
    with TemporaryDirectory() as folder:
        out = MemoryOutput(Path(folder), block)
        own.decode(dense, None, out, {})
        return out.result


def _decoding(name: str, made: Model) -> None:
    own = made.task
    rng = np.random.default_rng(0)
    channels, size = _output(made)
    smooth = ndimage.gaussian_filter(rng.standard_normal((channels, *size)), (0, 1.5, 1.5, 1.5))
    for what, values in (
        ("random", 8 * smooth / max(1e-9, float(np.abs(smooth).max()))),
        ("low", np.full((channels, *size), -50.0)),
        ("high", np.full((channels, *size), 50.0)),
        ("zero", np.zeros((channels, *size))),
    ):
        dense = _dense(own, torch.from_numpy(values.astype(np.float32))[None], SPACING, name)
        whole = _decoded(own, dense)
        claim(bool(whole.layers or whole.tables), f"{name}: decoding gives neither a layer nor a table")
        parts = _decoded(own, dense, (3, 7, 10))
        for key, layer in whole.layers.items():
            claim(
                np.array_equal(layer.read(), parts.layers[key].read()),
                f"{name}: '{key}' decoded in blocks differs from '{key}' decoded whole ({what} output)",
            )
        for key, table in whole.tables.items():
            for column, found in table.items():
                claim(
                    _alike(found, parts.tables[key][column]),
                    f"{name}: '{key}.{column}' decoded in blocks differs ({what} output)",
                )


def _alike(a: Array, b: Array) -> bool:
    if np.asarray(a).dtype.kind == "f":
        return np.shape(a) == np.shape(b) and bool(np.allclose(a, b, equal_nan=True))
    return bool(np.array_equal(a, b))


def _odd_annotations(name: str, made: Model) -> None:
    """Check scores and calibration of good and empty results against good and empty annotations."""
    own = made.task
    channels, size = _output(made)
    low = _dense(own, torch.full((1, channels, *size), -50.0), SPACING, name)
    truths = [annotation(own), annotation(own, empty=True)]
    if isinstance(truths[0], LabelImage):
        labels = truths[0].volume.read()
        truths.append(LabelImage(from_array(np.full_like(labels, 9), SPACING), unlabelled=9))
        truths.append(LabelImage(from_array(labels, SPACING), unlabelled=1))
    for number, truth in enumerate(truths):
        target = own.target(truth, SPACING).read()
        loss = own.loss(torch.zeros(1, channels, *size), torch.from_numpy(target.astype(np.float32))[None])
        claim(bool(torch.isfinite(loss)), f"{name}: the loss of an odd annotation is no number")
        scores = own.score(_decoded(own, low), truth, SPACING)
        claim(all(isinstance(v, float | int) for v in scores.values()), f"{name}: a score is no number")
        claim(
            number > 0 or own.better in scores,
            f"{name}: does not give the score '{own.better}' it is kept by",
        )
        try:
            point = own.calibrate([low], [truth])
        except AequoreaError:
            continue
        claim(
            all(np.isfinite(v) for v in point.values()),
            f"{name}: calibrates to a threshold that is no number",
        )
