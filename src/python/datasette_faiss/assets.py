"""The addresses of this plugin's static files."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

STATIC = Path(__file__).with_name("static")


def asset_url(datasette, name):
    """The address of static/`name`; it changes with the file, so that no cache keeps an old one."""
    path = datasette.urls.static_plugins(static_name(), name)
    return f"{path}?{fingerprint(name)}"


@functools.lru_cache(maxsize=None)
def static_name():
    """Datasette serves a plugin's files below the name of the distribution that it came in."""
    # Not above: Datasette imports this module while it imports that one.
    from datasette.plugins import get_plugins

    for plugin in get_plugins():
        if plugin["static_path"] and Path(plugin["static_path"]).resolve() == STATIC.resolve():
            return plugin["name"]
    return __package__


@functools.lru_cache(maxsize=None)
def fingerprint(name):
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:8]
