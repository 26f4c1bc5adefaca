"""Texts of several columns, normalized, with a prefix: what is scored is what the job says."""

import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertbatch import Job, JobError, run
from bertbatch.inputs.preparation import put_together, without_html
from bertbatch.job.text_template import columns_of
from tests.helpers.jobs import make_job
from tests.helpers.outputs import quarantine
from tests.helpers.reference import one_at_a_time
from tests.helpers.tiny import make_texts

TEXTS = make_texts(30)
TITLES = make_texts(30, seed=5)


def written(path, **columns):
    pq.write_table(pa.table({"id": range(len(next(iter(columns.values())))), **columns}), path)
    return path


def scores(model, source, out, **keys):
    keys = {f"input.{key}": value for key, value in keys.items()}
    table = run(make_job(model, source, out, **keys)).to_pandas()
    return table


def are_those_of(table, model, texts):
    np.testing.assert_allclose(np.stack(table["scores"]), one_at_a_time(model, texts), atol=5e-5)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_template_makes_one_text_of_columns(tiny_model, tmp_path, kind):
    if kind == "csv":
        source = tmp_path / "in.csv"
        lines = [f'{i},"{t}","{b}"' for i, (t, b) in enumerate(zip(TITLES, TEXTS, strict=True))]
        source.write_text("\n".join(["id,title,body", *lines]) + "\n")
    else:
        source = written(tmp_path / "in.parquet", title=TITLES, body=TEXTS)
    table = scores(tiny_model, source, tmp_path / "out", template="{title}. {body} - {title}")
    pairs = zip(TITLES, TEXTS, strict=True)
    are_those_of(table, tiny_model, [f"{t}. {b} - {t}" for t, b in pairs])


def test_nulls_are_empty_numbers_are_written_out_braces_stay(tiny_model, tmp_path):
    source = written(
        tmp_path / "in.parquet",
        title=pa.array(["a {body} b", None, None, "{}", "}{"]),
        body=pa.array(["c", "d {0}", None, None, "e"]),
        year=pa.array([2024, 1, None, 7, None], pa.int32()),
    )
    table = scores(tiny_model, source, tmp_path / "out", template="{{{title}}} {body} {year}")
    made = ["{a {body} b} c 2024", "{} d {0} 1", "{{}}  7", "{}{} e "]
    assert table["row"].tolist() == [0, 1, 3, 4]
    are_those_of(table, tiny_model, made)
    (bad,) = quarantine(tmp_path / "out")
    assert bad["reason"] == "all columns of input.template are null (title, body, year)"


def test_a_pair_has_a_text_of_its_own(tiny_model, tmp_path):
    """The template and the prefix are the first text's; both are normalized."""
    apart = written(tmp_path / "a.parquet", text=[f"q: {t}" for t in TITLES], pair=TEXTS)
    whole = written(
        tmp_path / "b.parquet", title=[f"  {t}\n" for t in TITLES], pair=[f"\t{t} " for t in TEXTS]
    )
    wanted = scores(tiny_model, apart, tmp_path / "one", text_pair="pair")
    table = scores(
        tiny_model, whole, tmp_path / "two",
        template="{title}", text_pair="pair", prefix="q: ", normalize="whitespace",
    )  # fmt: skip
    np.testing.assert_allclose(np.stack(table["scores"]), np.stack(wanted["scores"]), atol=1e-6)


HTML = {
    "a &amp; b &lt;c&gt;": "a & b <c>",
    "one<br />two<BR>three": "one two three",
    "<p>one</p><p>two</p>": " one  two ",
    "<b>bo</b>ld <a href='x>y'>link</a>": "bold link",
    "1 < 2 and 3 > 2": "1 < 2 and 3 > 2",
    "x<script>var y = '<b>';</script>z": "x  z",
    "<!-- no -->yes": "yes",
    "日本<wbr>語&nbsp;": "日本語\xa0",
    "never closed <b>bold": "never closed bold",
    "": "",
}


@pytest.mark.parametrize(("html", "text"), HTML.items())
def test_html_is_left_out(html, text):
    assert without_html(html) == text


@given(st.text())
def test_html_of_any_text_raises_nothing_and_escaped_text_comes_back(text):
    without_html(text)
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\r", "")
    assert without_html(escaped) == text.replace("\r", "")


def test_normalizers_run_in_the_order_of_the_job(tiny_model, tmp_path):
    texts = ["ﬁne &amp;lt; ２０ ", " a&nbsp;&nbsp;b<br>c ", "ｈｅｌｌｏ　ｗｏｒｌｄ"]
    source = written(tmp_path / "in.parquet", text=texts)
    one = scores(tiny_model, source, tmp_path / "one", normalize=["html", "nfkc", "whitespace"])
    made = [" ".join(unicodedata.normalize("NFKC", without_html(t)).split()) for t in texts]
    are_those_of(one, tiny_model, made)
    two = scores(tiny_model, source, tmp_path / "two", normalize=["html"], prefix="query: ")
    are_those_of(two, tiny_model, [f"query: {without_html(t)}" for t in texts])


@given(
    st.lists(st.tuples(st.text(), st.sampled_from(["a", "b c", "d.e", "日本"])), min_size=1),
    st.lists(st.lists(st.text(), min_size=4, max_size=4), max_size=3),
)
def test_templates_keep_every_character(parts, rows):
    names = ["a", "b c", "d.e", "日本"]
    template = "".join(t.replace("{", "{{").replace("}", "}}") + f"{{{n}}}" for t, n in parts)
    assert columns_of(template) == list(dict.fromkeys(name for _, name in parts))
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    wanted = ["".join(t + row[names.index(n)] for t, n in parts) for row in rows]
    assert put_together(template, columns) == wanted


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"template": "{title"}, "input.template': .*write {{ and }} for braces"),
        ({"template": "{}"}, "each {} must hold the name of a column"),
        ({"template": "{title!r}"}, "each {} must hold the name of a column"),
        ({"template": "{title:>10}"}, "each {} must hold the name of a column"),
        ({"template": "title"}, "must name at least one column"),
        ({"template": "{title}", "text": "body"}, "both say what the text is; keep one"),
        ({"normalize": ["lower"]}, "input.normalize"),
    ],
)
def test_what_a_job_cannot_mean_is_an_error(keys, said):
    data = {"input": {"path": "in.parquet", **keys}, "output": {"path": "out"}}
    with pytest.raises(JobError, match=said):
        Job.build(data)


def test_columns_that_are_not_there_or_no_text_are_named(tiny_model, tmp_path):
    source = written(tmp_path / "in.parquet", title=["a"], tags=pa.array([["b"]]))
    with pytest.raises(JobError, match=r"no column 'body', which input.template names; it has: "):
        scores(tiny_model, source, tmp_path / "out", template="{title} {body}")
    with pytest.raises(JobError, match=r"column 'tags' is list<.*>, not text"):
        scores(tiny_model, source, tmp_path / "out", template="{title} {tags}")


@pytest.mark.parametrize(
    ("key", "value"),
    [("template", "{title}"), ("normalize", ["nfkc"]), ("prefix", "query: ")],
)
def test_an_output_keeps_to_how_its_texts_were_made(tiny_model, tmp_path, key, value):
    source = written(tmp_path / "in.parquet", text=TEXTS, title=TITLES)
    scores(tiny_model, source, tmp_path / "out")
    with pytest.raises(JobError, match=rf"input.{key}: not set in the output"):
        scores(tiny_model, source, tmp_path / "out", **{key: value})
