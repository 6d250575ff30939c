"""Copies of the sources to build in, and make as a user would call it."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from database import EXTENSION, ROOT

BUILD = Path(EXTENSION).parent

# The variables that the make which runs this suite was given, without its flags and job server.
GIVEN = shlex.split(os.environ.get("MAKEFLAGS", "").partition("-- ")[2])


def run(*command, cwd=ROOT, **environment):
    of_make = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    inherited = {name: value for name, value in os.environ.items() if name not in of_make}
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def succeed(*command, **options):
    """The output of a command that must not fail."""
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


def make(tree, *arguments):
    return run("make", *GIVEN, "BUILD=build", *arguments, cwd=tree)


def copy_sources(directory):
    """A copy of the sources as a clone has them, but with the FAISS that is built already."""
    left_out = shutil.ignore_patterns("build", ".git", "__pycache__", "faiss.so")
    shutil.copytree(ROOT, directory, symlinks=True, ignore=left_out)
    (directory / "build").mkdir()
    for faiss in BUILD.glob("faiss-*"):
        (directory / "build" / faiss.name).symlink_to(faiss)
    return directory
