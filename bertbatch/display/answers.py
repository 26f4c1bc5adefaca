"""One text's answer in words: figures with four decimals, of long lists the beginning."""

MOST_NUMBERS = 12  # of a list


def spelled(value: object) -> str:
    """A value of the answer."""
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        more = f", … {len(value):,} in all" if len(value) > MOST_NUMBERS else ""
        return f"[{', '.join(map(spelled, value[:MOST_NUMBERS]))}{more}]"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {spelled(one)}" for key, one in value.items())
    return str(value)
