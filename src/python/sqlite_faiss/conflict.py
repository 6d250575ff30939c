"""A Datasette plugin of its own, which says that the plugin datasette-faiss is in the way.

Both that plugin and this package have a module `datasette_faiss`: whichever was installed
last has overwritten the other's files, so that neither is what it should be. This module is
in no other package, and so it runs whatever became of `datasette_faiss`.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click
from datasette import hookimpl
from datasette.utils import StartupError

OTHER_PLUGIN = "datasette-faiss"


class ConflictError(StartupError, click.ClickException):
    """Ends the start of a server with its message alone, in Datasette 0.65 and 1.0."""


@hookimpl(tryfirst=True)
def startup(datasette: Any) -> None:
    try:
        other = version(OTHER_PLUGIN)
    except PackageNotFoundError:
        return
    raise ConflictError(
        f"sqlite-faiss takes the place of {OTHER_PLUGIN}, and both are installed ({other}). "
        f"Run: pip uninstall {OTHER_PLUGIN}; then pip install --force-reinstall sqlite-faiss"
    )
