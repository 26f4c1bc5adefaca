"""What `make dist` builds works without the checkout; `make test-release` runs this."""

import csv
import re
import shlex
import shutil
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from bertbatch.native import build
from recipes import dist
from tests.helpers.environments import Environment
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.release
TEXTS = ["A warm, funny film.", "Dull and far too long.", "A wonderful story."]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return dist.build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and what the wheel itself asks for."""
    with zipfile.ZipFile(built[0]) as wheel:
        (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(wheel.read(path).decode())
    required = [one for one in metadata.get_all("Requires-Dist", []) if "extra ==" not in one]
    environment = Environment(tmp_path_factory.mktemp("fresh") / "venv", required)
    environment.run("pip", "install", "--no-index", built[0], cwd=environment.folder)
    return environment


def test_the_wheel_has_the_package_alone(built):
    names = dist.names_in_wheel(built[0])
    assert {name.partition("/")[0] for name in names} == {"bertbatch"}
    assert "bertbatch/model/packaged/sentiment_mini/model.safetensors" in names
    assert "bertbatch/model/packaged/sentiment_mini/NOTICE" in names


def test_the_sdist_can_build_the_wheel(built):
    """The wheel was built from it; nothing of the checkout but the package is in it."""
    with tarfile.open(built[1]) as sdist:
        tops = {member.name.split("/")[1] for member in sdist.getmembers() if "/" in member.name}
    assert not tops & {"tests", "benchmarks", "recipes", "docs", "jobs", "cluster", "dist"}
    assert dist.names_in_sdist(built[1]) >= dist.names_in_wheel(built[0]) - dist.KERNELS


def test_the_wheel_scores_without_the_checkout(installed, tmp_path):
    asked = "import bertbatch; print(bertbatch.__file__)"
    where = installed.run("python", "-c", asked, cwd=tmp_path)
    assert Path(where.strip()).parent == installed.site / "bertbatch"
    with (tmp_path / "in.csv").open("w") as file:
        csv.writer(file).writerows([["text"], *([text] for text in TEXTS)])
    shown = installed.run("bertbatch", "score", "in.csv", "out", "--log", "plain", cwd=tmp_path)
    assert "3 rows in = 3 scored + 0 quarantined" in shown
    assert "OK" in installed.run("bertbatch", "verify", "out", cwd=tmp_path)
    installed.run("bertbatch", "export", "out", "out.csv", cwd=tmp_path)
    with (tmp_path / "out.csv").open() as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert labels == ["positive", "negative", "positive"]


def test_the_wheel_has_kernels_that_load(installed, tmp_path):
    try:
        build.compiler()
    except build.NotBuilt as error:
        pytest.skip(str(error))
    asked = "from bertbatch.native.kernels import find_kernels, missing\n"
    asked += "assert not missing() and (found := find_kernels()), 'none'; print(found)"
    installed.run("python", "-c", asked, cwd=tmp_path)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_image_can_be_installed(target, built, tmp_path):
    """The Dockerfile's copies and pip's lines, with what is installed here already in place.

    What the tests' own environment lacks (Amazon's and Google's clients) is downloaded.
    """
    dockerfile = (ROOT / "cluster" / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.*)$", dockerfile, re.M):
        *sources, folder = line.split()
        for source in sources:
            copy(built[0] if source.startswith("dist/") else ROOT / source, tmp_path / folder)
    stage = re.search(rf"^FROM base AS {target}\n(.*?)(?=^FROM|\Z)", dockerfile, re.M | re.S)
    (line,) = re.findall(r"^RUN (pip .*)$", stage[1], re.M)
    words = shlex.split(line)
    extras = words[-1].partition(".whl")[2]
    environment = Environment(tmp_path / "venv", [f"bertbatch{extras}"])
    environment.run(*words, cwd=tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (home / "in.csv").write_text("text\nA warm film.\nA dull one.\n")
    (home / "job.yaml").write_text("input: {path: in.csv}\noutput: {path: out}\n")
    shown = environment.run("python", tmp_path / "jobs" / "score.py", "job.yaml", cwd=home)
    assert "2 rows in = 2 scored" in shown


def copy(source: Path, folder: Path) -> None:
    """As COPY does: a file into a folder, the contents of a folder."""
    if source.is_dir():
        shutil.copytree(source, folder)
    else:
        shutil.copy(source, folder)
