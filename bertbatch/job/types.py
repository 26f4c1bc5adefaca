"""What several sections of the job file share, or `registry.py` fills."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from bertbatch.registry import DATASETS, ENGINES, FORMATS, TASKS


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def split_commas(value: Any) -> Any:
    return [c.strip() for c in value.split(",") if c.strip()] if isinstance(value, str) else value


def _at_least_one(value: int | str) -> int | str:
    if isinstance(value, int) and value < 1:
        raise ValueError("must be at least 1, or auto")
    return value


def _size(value: float | str) -> float | str:
    if isinstance(value, float) and not 0 < value <= 1024:
        raise ValueError("must be above 0 and at most 1024, or auto")
    return value


StorageOptions = Annotated[
    dict[str, Any],
    Field(
        repr=False,
        description="passed to the storage client; ${NAME} is read from the environment",
    ),
]
CommaList = Annotated[
    list[str], BeforeValidator(split_commas, json_schema_input_type=list[str] | str)
]
CountOrAuto = Annotated[int | Literal["auto"], AfterValidator(_at_least_one)]
MibOrAuto = Annotated[float | Literal["auto"], AfterValidator(_size)]
if TYPE_CHECKING:
    Format: TypeAlias = str
    Engine: TypeAlias = str
    Task: TypeAlias = str
else:
    Format = Literal["auto", *FORMATS, *DATASETS]
    Engine = Literal["auto", *ENGINES]
    Task = Literal["auto", *TASKS]
