"""Write the generated pages of docs/reference from docstrings, specs and the command line.

    python docs/make_reference.py

A test fails where a page is not what this script would write.
"""

from __future__ import annotations

import inspect
import re
import textwrap
import types
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import typer
from pydantic_core import PydanticUndefined

from aequorea import cli, registry
from aequorea.specs import Spec

FOLDER = Path(__file__).parent / "reference"
MADE = "<!-- made by docs/make_reference.py: change the docstrings, then run it -->\n"

VERBS = ("pretrain:PretrainSpec", "finetune:FinetuneSpec", "predict:PredictSpec")
MICROSCOPES = ("DegradeSpec", "OpticsSpec", "CameraSpec", "MediumSpec", "ClutterSpec")
PYTHON = {
    "Open and look": (
        "aequorea.workflows.open:open",
        "aequorea.workflows.open:open_many",
        "aequorea.volume:Volume",
        "aequorea.volume:Region",
    ),
    "Labels": (
        "aequorea.workflows.dataset:dataset",
        "aequorea.workflows.dataset:Item",
        "aequorea.annotations:LabelImage",
        "aequorea.workflows.check:check",
        "aequorea.workflows.crops:crops",
    ),
    "Models": ("aequorea.model:load", "aequorea.model:Model"),
    "Verbs": (
        "aequorea.workflows.finetune:finetune",
        "aequorea.workflows.finetune:Finetuned",
        "aequorea.workflows.predict:predict",
        "aequorea.workflows.predict:Predicted",
        "aequorea.workflows.evaluate_model:evaluate_model",
        "aequorea.workflows.preview:preview",
        "aequorea.workflows.plan:plan_predict",
        "aequorea.workflows.plan:Plan",
        "aequorea.workflows.demo:demo",
    ),
    "Results and errors": (
        "aequorea.results:Result",
        "aequorea.signal.intensity:measure",
        "aequorea.errors:AequoreaError",
    ),
}
FILES = {
    "Model file": "aequorea.model",
    "Annotated data": "aequorea.workflows.dataset",
    "Result store": "aequorea.engine.writer",
    "Layers of a result": "aequorea.engine.layer",
    "Index of a data set": "aequorea.workflows.index",
    "Cache of slow volumes": "aequorea.workflows.cache",
}


def pages() -> dict[str, str]:
    """Return the text of every generated page by its name."""
    made = {"commands.md": commands, "recipes.md": recipes, "python.md": python, "files.md": files}
    return {name: re.sub(r"\n{3,}", "\n\n", make()).rstrip() + "\n" for name, make in made.items()}


def commands() -> str:
    """Return every command with its arguments and options."""
    group = typer.main.get_command(cli._app())
    lines = [
        "# Commands",
        MADE,
        "A mistake leaves with status 2 and one line; a fault of the package with 1.",
        "",
    ]
    for name in cli.COMMANDS:
        command = group.commands[name]  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            lines += [f"## {name}", "", f"`aequorea {name} {'|'.join(command.commands)} ...`", ""]
            lines += [
                _one_line(command.help or ""),
                "",
                "Arguments and options are those of the command.",
                "",
            ]
            continue
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
        usage = " ".join(["aequorea", name, *map(_metavar, arguments), "[options]"])
        lines += [f"## {name}", "", f"`{usage}`", "", _one_line(command.help or ""), ""]
        if arguments:
            lines += ["| argument | |", "|---|---|"]
            lines += [f"| `{_metavar(p)}` | {_cell(p.help or '')} |" for p in arguments] + [""]
        lines += ["| option | default | |", "|---|---|---|"]
        for p in options:
            flags = ", ".join(f"`{flag}`" for flag in p.opts)
            lines.append(f"| {flags} | {_default(p.default)} | {_cell(p.help or '')} |")
        lines.append("")
    return "\n".join(lines)


def recipes() -> str:
    """Return every spec with its fields and defaults."""
    lines = ["# Recipes", MADE]
    lines += [
        "Every verb and every plug is described by a recipe: words and values, in YAML (`spec.yaml` of a run",
        "folder), on the command line or in Python. An unknown word is refused, with the nearest right one.",
        "",
        "## Verbs",
        "",
    ]
    for place in VERBS:
        module, _, name = place.partition(":")
        lines += _spec(getattr(import_module(f"aequorea.workflows.{module}"), name), f"`{module}`")
    lines += _spec(import_module("aequorea.engine.train").TrainSpec, "`train` of `pretrain` and `finetune`")
    for kind in ("tasks", "backbones", "adapters", "objectives"):
        lines += [f"## {kind.capitalize()}", ""]
        for name, place in registry.BUILTIN[kind].items():
            module, _, attribute = place.partition(":")
            plug = getattr(import_module(module), attribute)
            lines += _spec(plug.Spec, f"`{name}`", _markdown(inspect.getdoc(plug) or ""))
    lines += ["## Simulated microscopes", ""]
    for name in MICROSCOPES:
        lines += _spec(getattr(import_module("aequorea.signal.degrade"), name), f"`{name}`")
    lines += ["## Formats", "", "| name | suffixes | |", "|---|---|---|"]
    for name, place in registry.BUILTIN["formats"].items():
        module, _, attribute = place.partition(":")
        plug = getattr(import_module(module), attribute)
        suffixes = ", ".join(f"`{s}`" for s in plug.suffixes) or "a folder"
        lines.append(f"| `{name}` | {suffixes} | {_cell(_one_line(inspect.getdoc(plug) or ''))} |")
    return "\n".join([*lines, ""])


def python() -> str:
    """Return what is meant to be used from Python."""
    lines = ["# Python", MADE]
    for heading, places in PYTHON.items():
        lines += [f"## {heading}", ""]
        for place in places:
            module, _, name = place.partition(":")
            thing = getattr(import_module(module), name)
            lines += [f"### {name}", "", f"`{module}.{name}`", ""]
            if inspect.isclass(thing):
                lines += [_document(thing), ""]
                for method, function in vars(thing).items():
                    if method.startswith("_") or isinstance(function, types.MemberDescriptorType):
                        continue
                    inner = getattr(function, "__func__", getattr(function, "fget", function))
                    inner = getattr(inner, "func", inner)
                    if inspect.isfunction(inner) and inspect.getdoc(inner):
                        lines += [_signature(f"{name}.{method}", inner, function), _document(inner), ""]
            else:
                lines += [_signature(name, thing, thing), _document(thing), ""]
    return "\n".join(lines)


def files() -> str:
    """Return what the files are that are read and written, from the modules that do it."""
    lines = ["# Files", MADE]
    for heading, module in FILES.items():
        lines += [f"## {heading}", "", _markdown(inspect.getdoc(import_module(module)) or ""), ""]
    return "\n".join(lines)


def _spec(spec: type[Spec], heading: str, about: str = "") -> list[str]:
    written = [inspect.cleandoc(cls.__doc__ or "") for cls in reversed(spec.__mro__) if issubclass(cls, Spec)]
    entries = [entry for text in written for entry in _sections(text).get("Attributes", [])]
    meanings = {name.strip(): meaning for names, meaning in entries for name in names.split(",")}
    own = inspect.getdoc(spec) or ""
    lines = [f"### {heading}", "", about or _one_line(own.split("\n\n")[0]), ""]
    if not spec.model_fields:
        return [*lines, "No fields.", ""]
    lines += ["| field | type | default | |", "|---|---|---|---|"]
    for name, field in spec.model_fields.items():
        default = field.default if field.default is not PydanticUndefined else "required"
        limits = ", ".join(
            f"{sign} {getattr(limit, word):g}"
            for limit in field.metadata
            for word, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
            if getattr(limit, word, None) is not None
        )
        kind = _cell(_spoken(field.annotation) + (f" {limits}" if limits else ""))
        shown = default if default == "required" else _default(default)
        lines.append(f"| `{name}` | {kind} | {shown} | {_cell(meanings.get(name, ''))} |")
    return [*lines, ""]


def _spoken(annotation: Any) -> str:
    if annotation is None or annotation is type(None):
        return "nothing"
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{word}`" for word in inside)
    if origin in (Union, types.UnionType):
        return " or ".join(_spoken(part) for part in inside)
    if origin is tuple and Ellipsis not in inside:
        return f"{'two' if len(inside) == 2 else 'three'} of {_spoken(inside[0])}"
    if origin is tuple:
        return f"{_spoken(inside[0])}, several"
    if origin is dict:
        return "words and values"
    if hasattr(annotation, "__metadata__"):
        return _spoken(annotation.__origin__)
    if inspect.isclass(annotation) and issubclass(annotation, Spec):
        return "words and values, below"
    return {"int": "whole number", "float": "number", "str": "text", "bool": "yes or no"}.get(
        getattr(annotation, "__name__", str(annotation)), str(annotation)
    )


def _default(value: Any) -> str:
    if value is None or value is ... or value == {}:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Spec):
        return "as below"
    if isinstance(value, dict):
        return "`" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(str(v.plain() if isinstance(v, Spec) else v) for v in value) + "]`"
    return f"`{value}`"


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name).upper()


def _signature(name: str, function: Callable[..., Any], declared: object) -> str:
    if isinstance(declared, property) or type(declared).__name__ == "cached_property":
        return f"**`{name}`**\n"
    words = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        given = parameter.default
        shown = given.__name__ if callable(given) else repr(given)
        words.append(star + parameter.name + ("" if given is parameter.empty else f"={shown}"))
    return f"**`{name}({', '.join(words)})`**\n"


def _document(thing: Any) -> str:
    """Return a NumPy-style docstring as Markdown: text, then a list for each section."""
    text = inspect.getdoc(thing) or ""
    head = re.split(r"\n\n?[A-Z][a-z ]+\n-{3,}\n", "\n" + text, maxsplit=1)[0].strip()
    lines = [_markdown(head), ""]
    for section, entries in _sections(text).items():
        if section == "Examples":
            continue
        lines += [f"*{section}*", ""]
        for name, meaning in entries:
            lines.append(f"- `{name}`: {_inline(meaning)}" if meaning else f"- {_inline(name)}")
        lines.append("")
    return "\n".join(lines).rstrip()


def _sections(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return the entries (names, meaning) of each section of a NumPy-style docstring."""
    parts = re.split(r"(?m)^([A-Z][a-z ]+)\n-{3,}$\n", text)
    found = {}
    for heading, body in zip(parts[1::2], parts[2::2]):
        entries: list[tuple[str, str]] = []
        for block in re.split(r"(?m)^(?=\S)", body):
            first, _, rest = block.strip().partition("\n")
            if first:
                entries.append((first, " ".join(textwrap.dedent(rest).split())))
        found[heading] = entries
    return found


def _markdown(text: str) -> str:
    """Return the little reStructuredText that docstrings use as Markdown."""
    return "\n".join(_blocks(_inline(text).splitlines()))


def _blocks(lines: list[str]) -> Iterator[str]:
    """Turn definition lists (a line, then indented lines) into bullets, and literal blocks into fences."""
    for number, line in enumerate(lines):
        after = lines[number + 1] if number + 1 < len(lines) else ""
        before = lines[number - 1] if number else ""
        bullet = line.lstrip().startswith("- ")
        if line and not line.startswith(" ") and not bullet and after.startswith("    "):
            yield f"- {line}:"
        elif line.startswith("    ") and not before:
            yield f"    {line.strip()}"
        elif line.startswith("    "):
            yield f"  {line.strip()}"
        else:
            yield line


def _inline(text: str) -> str:
    text = re.sub(r":(?:func|class|mod|meth|attr|data):`~?([^`]+)`", r"``\1``", text)
    return text.replace("``", "`")


def _one_line(text: str) -> str:
    return " ".join(_inline(text).split())


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


if __name__ == "__main__":
    for page, content in pages().items():
        (FOLDER / page).write_text(content, encoding="utf-8")
        print(FOLDER / page)
