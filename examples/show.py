"""Shows what a run on the demo reviews gave: the confusion with the gold labels, a few rows."""

import sys

import pandas as pd
from rich.console import Console
from rich.table import Table


def main(output: str) -> None:
    console = Console()
    predictions = pd.read_parquet(output)
    english = predictions[predictions["lang"] == "en"]
    for name, rows in (("English", english), ("Japanese", predictions.drop(english.index))):
        rows = rows.dropna(subset="gold")
        confusion = pd.crosstab(rows["gold"], rows["label"])
        table = Table("gold \\ predicted", *confusion.columns, title=f"{name}: {len(rows)} rows")
        for gold, counts in confusion.iterrows():
            table.add_row(str(gold), *map(str, counts))
        console.print(table)
        console.print(f"accuracy {(rows['gold'] == rows['label']).mean():.3f}\n", highlight=False)
    console.print("The English model knows no Japanese, as unk_share says:")
    columns = ["id", "lang", "gold", "label", "score", "n_tokens", "truncated", "unk_share"]
    chosen = ["r001", "r002", "r088", "r289"]
    rows = predictions[predictions["id"].isin(chosen) | (predictions["lang"] == "ja")]
    console.print(rows[columns].head(8).to_string(index=False), highlight=False)


if __name__ == "__main__":
    main(sys.argv[1])
