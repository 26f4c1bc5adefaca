"""Make reviews/part-0.parquet and reviews/part-1.parquet from reviews.csv.

The Parquet files hold the rows of the CSV, in the same order, cut in two halves. An unquoted
empty field of the CSV becomes a null, a quoted one ("") becomes an empty string.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
COLUMNS = ("id", "domain", "lang", "gold", "text")


def main() -> None:
    table = pa.csv.read_csv(
        HERE / "reviews.csv",
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in COLUMNS},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    half = (table.num_rows + 1) // 2
    folder = HERE / "reviews"
    folder.mkdir(exist_ok=True)
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        pq.write_table(part, folder / f"part-{number}.parquet", compression="zstd")


if __name__ == "__main__":
    main()
