"""Carried columns: each `column` or `column:new_name`; `*` stands for all."""

from collections.abc import Sequence

# What predictions and quarantine files name themselves.
OUTPUT_COLUMNS = (
    *("source", "row", "label", "score", "scores", "labels", "value", "values"),
    *("logits", "n_tokens", "truncated", "unk_share", "reason"),
)


ALL = "*"


def carried(spec: str) -> tuple[str, str]:
    """The column and its name in the output."""
    old, _, new = spec.rpartition(":") if ":" in spec else (spec, "", spec)
    return old, new


def check_carried(specs: Sequence[str], taken: Sequence[str] = OUTPUT_COLUMNS) -> None:
    """Raises ValueError for a name that is missing, taken, or there twice."""
    seen: set[str] = set()
    folded_taken = {name.casefold() for name in taken}
    for spec in specs:
        if spec == ALL:
            continue
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


def carry_all(
    columns: Sequence[str], specs: Sequence[str], taken: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """The specs with one for each column that they do not name; those that are renamed.

    A column whose name the output has is `<name>_in` there.
    """
    named = [spec for spec in specs if spec != ALL]
    used = {name.casefold() for name in (*OUTPUT_COLUMNS, *taken)}
    used |= {carried(spec)[1].casefold() for spec in named}
    renamed: dict[str, str] = {}
    for column in columns:
        if column in ("", ALL, *(carried(spec)[0] for spec in specs)):
            continue  # one without a name, such as pandas' index in CSV, cannot be named
        new = column.replace(":", "_")
        while new.casefold() in used or new.casefold().startswith("attn_"):
            new = f"in_{new}" if new.casefold().startswith("attn_") else f"{new}_in"
        used.add(new.casefold())
        named.append(f"{column}:{new}")
        if new != column:
            renamed[column] = new
    return [ALL, *named], renamed
