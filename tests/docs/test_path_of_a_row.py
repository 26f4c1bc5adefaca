"""A row passes few files, folder by folder, as docs/design.md draws it."""

import re
from itertools import groupby

from recipes.path_of_a_row import files_on_the_path
from tests.helpers.paths import ROOT

MOST = 17


def test_a_row_passes_few_files_folder_by_folder():
    files = files_on_the_path()
    assert len(files) <= MOST
    folders = [file.split("/")[0] for file in files]
    visits = [name for name, _ in groupby(f for f in folders if f != "runtime")]
    assert len(visits) == len(set(visits)), files
    design = (ROOT / "docs" / "design.md").read_text()
    drawn = re.search(r"recipes.path_of_a_row.*?```text\n(.*?)```", design, re.S)
    assert drawn
    assert re.findall(r"^([\w/]+\.py)", drawn[1], re.M) == files
