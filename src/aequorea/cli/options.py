"""Options that several commands share, and how their words become values."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection
from typing import Annotated, Any

import typer

from aequorea.errors import SpecError, nearest

Spacing = Annotated[
    str | None,
    typer.Option("--spacing", help="Voxel size in µm, Z,Y,X; overrides the file's.", metavar="Z,Y,X"),
]
Axes = Annotated[
    str | None, typer.Option("--axes", help="One letter per axis of the file, of T C Z Y X S, e.g. TCZYX.")
]
Channel = Annotated[
    str | None, typer.Option("--channel", help="Channels to use, by number or name: 0 or 0,2.")
]
Time = Annotated[int | None, typer.Option("--time", help="Time point, from 0.")]
Scene = Annotated[
    str | None, typer.Option("--scene", help="Image in a file that holds several, e.g. A/1/0 of a plate.")
]
Level = Annotated[int | None, typer.Option("--level", help="Level of a pyramid; 0 is the finest.")]
Dataset = Annotated[
    str | None, typer.Option("--dataset", help="Array inside an HDF5 or Zarr file, e.g. labels/nuclei.")
]
Sequence = Annotated[
    bool, typer.Option("--sequence", help="The folder's images are the planes of one volume.")
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory", help="Most main memory to use, e.g. 4GB; refused where too little.", metavar="SIZE"
    ),
]

Unlabelled = Annotated[
    int | None, typer.Option("--unlabelled", help="Label value of voxels that nobody looked at.")
]


def planning(context: typer.Context) -> bool:
    """Whether a command was called as ``aequorea plan COMMAND``: then it only says what it would take."""
    return context.parent is not None and context.parent.info_name == "plan"


def show_plan(plan: Any) -> None:
    """Print a plan, and the command that does it."""
    print("\n".join(plan.lines()))
    words = sys.argv[1:]
    if "plan" in words:
        words.remove("plan")
        print(f"{'next':12} aequorea {shlex.join(words)}")


def refuse(why: str, flags: dict[str, object]) -> None:
    """Raise :class:`SpecError` where options were given that a way of calling a command has no use for."""
    given = [flag for flag, value in flags.items() if value]
    if given:
        raise SpecError(f"{why}: leave out {' and '.join(given)}")


def numbers(text: str | None, flag: str, kind: type[int] | type[float] = float) -> Any:
    """Return three numbers z, y, x from ``"2,0.5,0.5"``, or ``None``.

    Raises
    ------
    SpecError
        If the text is something else; names the flag.
    """
    if text is None:
        return None
    try:
        z, y, x = (kind(part) for part in text.split(","))
    except ValueError:
        example = "16,64,64" if kind is int else "2,0.5,0.5"
        raise SpecError(f"{flag} '{text}': expected three numbers Z,Y,X, e.g. {flag} {example}") from None
    if min(z, y, x) <= 0:
        raise SpecError(f"{flag} '{text}': all three must be above 0")
    return z, y, x


def fields(pairs: list[str], flag: str) -> dict[str, Any]:
    """Return ``{"a": 1}`` from ``["a=1"]``; values are read as YAML."""
    import yaml

    out: dict[str, Any] = {}
    for pair in pairs:
        word, equals, value = pair.partition("=")
        if not equals:
            raise SpecError(f"{flag} '{pair}': expected WORD=VALUE")
        out[word] = yaml.safe_load(value)
    return out


def set_fields(
    recipes: dict[str, dict[str, Any]],
    pairs: list[str],
    default: str = "",
    own: tuple[dict[str, Any], Collection[str]] = ({}, ()),
) -> None:
    """Put the words of ``--set`` into recipes: ``["backbone.size=small"]``; those without a recipe into ``default``.

    Words may lie deeper: ``objective.degrade.camera.gain=[1, 2]``. What belongs to no recipe but to the run is put
    into the dictionary of ``own``, whose second half says which words those are.

    Raises
    ------
    SpecError
        If no recipe is called so.
    """
    for path, value in fields(pairs, "--set").items():
        first, *words = path.split(".")
        if not words and path in own[1]:
            own[0][path] = value
            continue
        if not words:
            first, words = default, [path]
        if first not in recipes:
            recipe = path.rpartition(".")[0]
            raise SpecError(f"--set {path}: no recipe is called '{recipe}'; {nearest(recipe, recipes)}")
        place = recipes[first]
        for word in words[:-1]:
            place = place.setdefault(word, {})
        place[words[-1]] = value
