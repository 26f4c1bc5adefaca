"""The kind of a file, detected by its first bytes."""

import re

HEAD = 4096

# How files of a format begin. Plain letters count only with bytes that text does not have.
_MAGIC = {
    "gzip": rb"\x1f\x8b",
    "zstandard": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",
    "a Parquet file": rb"PAR1(?=.{0,60}\x00)",
    "an encrypted Parquet file": rb"PARE(?=.{0,60}\x00)",
    "a zip archive, as Excel's files are": rb"PK(\x03\x04|\x05\x06)",
    "an old Excel file": rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "an Arrow file": rb"(ARROW|FEA)1(?=.{0,60}\x00)",
    "an ORC file": rb"ORC(?=.{0,60}\x00)",
    "an Avro file": rb"Obj\x01",
    "bzip2": rb"BZh[1-9](\x31\x41\x59\x26\x53\x59|\x17\x72\x45\x38\x50\x90)",
    "xz": rb"\xfd7zXZ\x00",
    "a PDF": rb"%PDF-\d\.\d[\r\n]",
    # By a byte order mark, or by the zeros beside the first letters of a header.
    "UTF-32": rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff|[^\x00]\x00{3}|\x00{3}[^\x00]",
    "UTF-16": rb"\xff\xfe|\xfe\xff|([^\x00]\x00){2}|(\x00[^\x00]){2}",
}
_ADVICE = {
    "gzip": "end its name in .gz",
    "zstandard": "end its name in .zst",
    "a Parquet file": "end its name in .parquet, or set input.format: parquet",
    "an Arrow file": "end its name in .arrow, or set input.format: arrow",
    "UTF-16": "save it as UTF-8, or with a byte order mark",
    "UTF-32": "save it as UTF-8",
}
_CSV_ADVICE = {"UTF-16": "set input.csv.encoding to utf-16-le or utf-16-be, or save it as UTF-8"}


def what_it_is(head: bytes) -> str | None:
    """The kind of file that begins like this; None for text and unknown kinds."""
    for name, pattern in _MAGIC.items():
        if re.match(pattern, head, re.DOTALL):
            return name
    return None


def advice(kind: str, format: str) -> str:
    """What to do with a file of this kind that was read as text of some format."""
    own = _CSV_ADVICE if format == "CSV" else {}
    return own.get(kind) or _ADVICE.get(kind, "write it as CSV or Parquet")
