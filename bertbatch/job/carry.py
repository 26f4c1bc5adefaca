"""Carried columns: each `column` or `column:new_name`."""

from collections.abc import Sequence

# What predictions and quarantine files name themselves.
OUTPUT_COLUMNS = (
    *("source", "row", "label", "score", "scores", "labels", "value", "values"),
    *("logits", "n_tokens", "truncated", "unk_share", "reason"),
)


def carried(spec: str) -> tuple[str, str]:
    """The column and its name in the output."""
    old, _, new = spec.rpartition(":") if ":" in spec else (spec, "", spec)
    return old, new


def check_carried(specs: Sequence[str], taken: Sequence[str] = OUTPUT_COLUMNS) -> None:
    """Raises ValueError for a name that is missing, taken, or there twice."""
    seen: set[str] = set()
    folded_taken = {name.casefold() for name in taken}
    for spec in specs:
        old, new = carried(spec)
        if not old or not new:
            raise ValueError(f"'{spec}' must be 'column' or 'column:new_name'")
        folded = new.casefold()  # DuckDB and Spark do not tell Label from label
        if folded in folded_taken or folded.startswith("attn_"):
            raise ValueError(
                f"'{new}' is an output column; carry it under another name: '{old}:{new}_in'"
            )
        if folded in seen:
            raise ValueError(f"'{new}' is carried twice; rename one: '{old}:{new}_2'")
        seen.add(folded)
