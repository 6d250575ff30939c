"""Builds the extension for the wheel: what hatchling calls before it packs.

WHEEL_LEVELS, a list of SIMD levels, says for which CPUs; without it, for this machine's.
An editable install gets a link to build/faiss.so, so that the next `make` is what it uses.
"""

import os
import subprocess
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = Path("src/python/sqlite_faiss")


def make(root, *arguments):
    """Run make, its messages going to the standard error; returns what it printed."""
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=root, check=True, text=True, stdout=subprocess.PIPE).stdout


class ExtensionHook(BuildHookInterface):
    def initialize(self, version, build_data):
        root = Path(self.root)
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        # Nothing of the extension is made for one version of Python.
        build_data["tag"] = f"py3-none-{platform}"
        if version == "editable":
            self.link(root)
            return
        levels = os.environ.get("WHEEL_LEVELS", "").split() or [make(root, "level").strip()]
        for level in levels:
            library = f"build/wheel/{level}/faiss.so"
            jobs = f"-j{os.cpu_count() or 1}"
            self.app.display_info(make(root, jobs, "extension", f"FAISS_LEVEL={level}"))
            build_data["force_include"][str(root / library)] = f"sqlite_faiss/{level}/faiss.so"

    def link(self, root):
        self.app.display_info(make(root, "all"))
        for former in (root / PACKAGE).glob("*/faiss.so"):
            former.unlink()
        link = root / PACKAGE / make(root, "level").strip() / "faiss.so"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(os.path.relpath(root / "build/faiss.so", link.parent))
