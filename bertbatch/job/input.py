"""The job file's section `input`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from bertbatch.job.carry import ALL, carried, check_carried
from bertbatch.job.text_template import columns_of
from bertbatch.job.types import CommaList, Format, Section, StorageOptions, split_commas


class Csv(Section):
    delimiter: str | None = Field(
        None,
        description="the one ASCII character between fields; if not said, a tab in .tsv files, "
        "else a comma",
    )
    quote: str = Field('"', description="the one ASCII character around quoted fields")
    escape: str | None = Field(
        None,
        description="the one ASCII character, such as a backslash, that stands within quotes "
        "before a quote or before itself; an unquoted \\N is then null",
    )
    header: bool = Field(True, description="whether the first line names the columns")
    encoding: Literal[
        "utf-8", "cp932", "euc-jp", "latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be"
    ] = Field(
        "utf-8",
        description="how the file's text is encoded; a byte order mark tells UTF-16 from UTF-8",
    )

    @field_validator("delimiter", "quote", "escape")
    @classmethod
    def one_ascii_character(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if len(value) != 1 or not value.isascii() or value in "\r\n":
            raise ValueError("must be one ASCII character, and no line end")
        return value

    @model_validator(mode="after")
    def distinguishable(self) -> "Csv":
        between = (",", "\t") if self.delimiter is None else (self.delimiter,)
        if self.quote in between or self.escape in (*between, self.quote):
            raise ValueError("two of delimiter, quote and escape are the same character")
        for character in filter(None, (self.delimiter, self.quote, self.escape)):
            # Only such bytes are also the second byte of a cp932 character.
            if self.encoding == "cp932" and ord(character) >= 0x40:
                raise ValueError(f"'{character}' can be half a character in cp932; use another")
        return self


class Input(Section):
    path: str | list[str] = Field(description="a file, a folder, a glob, or a list of them")
    format: Format = Field("auto", description="the input's format; auto goes by the files' names")
    text: str = Field("text", description="the column that holds the text to score")
    text_pair: str | None = Field(
        None, description="the column with the pair text, for models that score pairs"
    )
    template: str | None = Field(
        None, description="the text from several columns, instead of `text`; null ones are empty"
    )
    normalize: Annotated[
        list[Literal["nfkc", "html", "whitespace"]], BeforeValidator(split_commas)
    ] = Field(
        [],
        description="what is done to each text, in this order: nfkc (Unicode's compatible "
        "characters become one), html (only the text of HTML), whitespace (single spaces)",
    )
    prefix: str = Field("", description="what is put before each text, but not before `text_pair`")
    carry: CommaList = Field(
        [],
        description="columns to copy to the output, each 'column' or 'column:new_name'; '*' copies "
        "all of the first file",
    )
    where: str | None = Field(
        None,
        description="a condition as SQL writes it; only rows for which it is true are scored",
    )
    dedupe: Literal["corpus"] | None = Field(
        None,
        description="corpus: a text that occurs in several units is scored once, and all its rows "
        "have that answer; the input is read once more for that",
    )
    csv: Csv = Field(Csv(), description="the dialect of CSV input")
    text_rows: Literal["line", "file"] = Field(
        "line", description="what of a plain text file is a row"
    )
    limit: int | None = Field(
        None, ge=1, description="score only the first N rows, of those that `where` selects"
    )
    min_age: float = Field(
        0,
        ge=0,
        description="seconds; younger files are left out, since they may still be being written",
    )
    on_changed_source: Literal["fail", "keep"] = Field(
        "fail", description="what to do when a file changed after it was scored"
    )
    on_removed_source: Literal["keep", "fail"] = Field(
        "keep", description="what to do when a file that was planned is gone"
    )
    storage_options: StorageOptions = Field({})

    @property
    def paths(self) -> list[str]:
        """What `path` names, one or several."""
        return [self.path] if isinstance(self.path, str) else self.path

    @property
    def texts(self) -> dict[str, list[str]]:
        """The columns of each text, by its key in the job."""
        pair = {"text_pair": [self.text_pair]} if self.text_pair is not None else {}
        if self.template is not None:
            return {"template": columns_of(self.template), **pair}
        return {"text": [self.text], **pair}

    @property
    def text_columns(self) -> list[str]:
        """The columns of all texts, each once."""
        return list(dict.fromkeys(column for columns in self.texts.values() for column in columns))

    @property
    def where_columns(self) -> list[str]:
        """The columns that `where` names."""
        if self.where is None:
            return []
        from bertbatch.job.condition import columns_of, parsed

        return columns_of(parsed(self.where))

    @property
    def prepares(self) -> dict[str, Any]:
        """How texts are made, where that is not a column's own text."""
        given = {key: getattr(self, key) for key in ("template", "normalize", "prefix")}
        return {key: value for key, value in given.items() if value}

    @property
    def carried(self) -> dict[str, str]:
        """The input's column of each carried output column, by the output's name."""
        return {new: old for old, new in map(carried, self.carry) if old != ALL}

    @field_validator("path")
    @classmethod
    def not_empty(cls, value: str | list[str]) -> str | list[str]:
        if not value or (isinstance(value, list) and "" in value):
            raise ValueError("must name at least one file, folder or glob")
        return value

    @field_validator("where")
    @classmethod
    def is_condition(cls, value: str | None) -> str | None:
        if value is not None:
            from bertbatch.job.condition import parsed  # sqlglot takes a tenth of a second

            parsed(value)
        return value

    @field_validator("template")
    @classmethod
    def names_columns(cls, value: str | None) -> str | None:
        if value is not None:
            columns_of(value)
        return value

    @model_validator(mode="after")
    def one_text(self) -> "Input":
        if self.template is not None and self.text != type(self).model_fields["text"].default:
            raise ValueError("input.template and input.text both say what the text is; keep one")
        return self

    @field_validator("carry")
    @classmethod
    def no_clash(cls, value: list[str]) -> list[str]:
        check_carried(value)
        return value
