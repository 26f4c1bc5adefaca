"""Builds the kernels for CPUs beside the package, where a compiler is."""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

NATIVE = Path("bertbatch", "native")
BUILD = runpy.run_path(str(NATIVE / "build.py"))


class BuildPackage(build_py):
    def run(self) -> None:
        super().run()
        folder = NATIVE if self.editable_mode else Path(self.build_lib, NATIVE)
        try:
            BUILD["build"](folder)
        except BUILD["NotBuilt"] as error:
            print(f"bertbatch: no kernels for CPUs, which is slower: {error}")


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        """Of one wheel for every Python on a platform if there are kernels, else on all."""
        built = self.get_finalized_command("build").build_lib
        if not list(Path(built, NATIVE).glob("*.so")):
            return super().get_tag()
        self.root_is_pure = False
        # The libraries depend on nothing; 2.17 is the oldest that installers know by this name.
        return "py3", "none", "manylinux_2_17_x86_64"


setup(cmdclass={"build_py": BuildPackage, "bdist_wheel": Wheel})
