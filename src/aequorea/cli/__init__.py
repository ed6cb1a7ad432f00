"""The command line: words in, one workflow called, lines out.

Each file here is one command and exposes ``command(app)``; heavy imports stay inside the commands, so that
``aequorea --help`` answers at once.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

import typer

from aequorea import __version__
from aequorea.errors import AequoreaError, AequoreaWarning
from aequorea.settings import settle

COMMANDS = (
    "demo",
    "info",
    "check",
    "crops",
    "pretrain",
    "finetune",
    "predict",
    "plan",
    "evaluate",
    "convert",
    "doctor",
)

INTERRUPTED = 130
"""What a command that was stopped by Ctrl-C leaves with."""


def _app(names: Sequence[str] = COMMANDS) -> typer.Typer:
    app = typer.Typer(
        name="aequorea",
        help="Few-label segmentation of fluorescence volumes larger than memory.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for name in names:
        import_module(f"aequorea.cli.{name}").command(app)

    @app.callback(invoke_without_command=True)
    def options(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
        """Few-label segmentation of fluorescence volumes larger than memory."""
        if version:
            print(f"aequorea {__version__}")
            raise typer.Exit

    return app


def main() -> None:
    """Run the command line; a user's mistake is one line and status 2."""

    def show(message: Warning | str, category: type[Warning], *rest: object) -> None:
        if issubclass(category, AequoreaWarning):
            print(f"note: {message}", file=sys.stderr)

    warnings.showwarning = show  # type: ignore[assignment]
    settle()
    words = sys.argv[1:] or ["--help"]
    try:
        # Where a command is named the others need not be made, which takes as long as all else before it begins.
        app = _app(words[:1]) if words[0] in COMMANDS else _app()
        code = app(words, standalone_mode=False)
    except AequoreaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        # A wrong word on the command line; typer keeps the class of these errors to itself.
        text = " ".join(error.format_message().split()).rstrip(".")
        command = getattr(getattr(error, "ctx", None), "command_path", "aequorea")
        print(f"error: {text}; see {command} --help", file=sys.stderr)
        sys.exit(2)
    if code == INTERRUPTED:
        print("stopped; the same command goes on from here", file=sys.stderr)
    sys.exit(code)
