"""The base of every model here, and the kinds of values that several of them hold.

Belongs here: how strict a model is (frozen, no unknown field, no text made of numbers) and that what a user
constructs fails with ConfigError. Must not know: any one kind of resource, files, or how a value is enforced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from ..errors import ConfigError, SpiffeIdError
from ..spiffe import SpiffeId
from ._problems import Complaint, describe

__all__ = [
    "FilePath",
    "Flag",
    "Model",
    "Port",
    "PortNumber",
    "Seconds",
    "Text",
    "Texts",
    "Token",
    "WorkloadId",
    "check_each",
    "checked",
    "complain",
    "is_dns_label",
    "is_token",
]

if TYPE_CHECKING:

    class Model:
        """What type checkers see: typed attributes, and a constructor as lenient as the files are.

        Pydantic's own annotation would demand tuples and models where lists and mappings are just as good.
        """

        def __init__(self, **data: Any) -> None: ...
        @classmethod
        def model_validate(cls, obj: Any) -> Self: ...
        def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self: ...

else:

    class Model(BaseModel):
        """A frozen value; field names in camelCase or snake_case, nothing unknown, nothing converted to text.

        Raises:
            ConfigError: with every problem, each with its field path.
        """

        model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)

        def __init__(self, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                source = f"<{type(self).__name__}>"
                raise ConfigError(problem.at(source) for problem in describe(error, type(self))) from None

        # Only what a user constructs goes through the constructor; the models inside it keep pydantic's own errors,
        # so that all of them are told at once.
        __init__.__pydantic_base_init__ = True


_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")


def complain(complaints: Iterable[Complaint]) -> None:
    """Raise, inside a validator, every complaint at once, each with its place below the validated field."""
    complaints = tuple(complaints)
    if complaints:
        raise PydanticCustomError("complaints", "several", {"complaints": complaints})


def checked(check: Callable[[str], object]) -> AfterValidator:
    """For ``Annotated``: a value for which ``check`` raises ValueError is refused; its result does not count."""

    def run(value: str) -> str:
        check(value)
        return value

    return AfterValidator(run)


def check_each(values: Iterable[str], check: Callable[[str], object]) -> None:
    """Run ``check`` on every value of a list; each ValueError becomes a complaint about that one value."""
    complaints = []
    for index, value in enumerate(values):
        try:
            check(value)
        except ValueError as error:
            complaints.append(((index,), str(error)))
    complain(complaints)


def is_dns_label(text: str) -> bool:
    """Whether the text is a DNS label (RFC 1123): a Kubernetes namespace or service account."""
    return len(text) <= 63 and _LABEL.fullmatch(text) is not None


def is_token(text: str) -> bool:
    """Whether the text is a token (RFC 9110 section 5.6.2): a header's name."""
    return _TOKEN.fullmatch(text) is not None


def _token(text: str) -> None:
    if not is_token(text):
        raise ValueError(f"{text[:80]!a} is not a name that HTTP allows")


def _path(text: str) -> None:
    if "\0" in text:
        raise ValueError("a path holds no NUL character")


def _workload_id(text: str) -> None:
    try:
        if not SpiffeId.parse(text).path:
            raise ValueError(f"{text!a} names a trust domain, not a workload")
    except SpiffeIdError as error:
        raise ValueError(str(error)) from None


def _port(value: object) -> int:
    """A YAML key may be written with or without quotes; a JSON key always has them."""
    if isinstance(value, str) and _PORT.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return value


Text = Annotated[str, Field(strict=True, min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(min_length=1)]
Token = Annotated[Text, checked(_token)]
Flag = Annotated[bool, Strict()]
FilePath = Annotated[Text, checked(_path)]
WorkloadId = Annotated[Text, checked(_workload_id)]
Seconds = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
PortNumber = Annotated[int, Field(strict=True, ge=1, le=65535)]
Port = Annotated[int, BeforeValidator(_port)]
"""A port that may be a key, with or without quotes."""
