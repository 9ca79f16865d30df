"""The operator's settings: read from the environment here and nowhere else, checked once, printed once.

    RINGKEEP_OPERATOR_<FIELD>   one variable for each field of ``OperatorSettings``

A value that makes no sense is a ``BadSetting`` with one sentence that names the variable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from ringkeep_core.errors import BadSetting
from ringkeep_core.ids import is_node_name

PREFIX = "RINGKEEP_OPERATOR_"
LEVELS = ("debug", "info", "warning", "error")
MANAGER_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """What the operator looks after and how often. Times are in seconds."""

    namespaces: tuple[str, ...] = ()
    """RINGKEEP_OPERATOR_NAMESPACES: the namespaces to look after, separated by commas; empty: all of them."""
    field_manager: str = "ringkeep-operator"
    """RINGKEEP_OPERATOR_FIELD_MANAGER: 1..64 characters; owner of what is applied; never change it."""
    resync_s: float = 30.0
    """RINGKEEP_OPERATOR_RESYNC_S: 1..600; so often all resources are listed, whatever the watches say."""
    silence_s: float = 70.0
    """RINGKEEP_OPERATOR_SILENCE_S: 5..600; a watch without a line for so long is begun anew; one a minute is usual."""
    passes: int = 4
    """RINGKEEP_OPERATOR_PASSES: 1..64 clusters that are looked at at the same time."""
    port: int = 8081
    """RINGKEEP_OPERATOR_PORT: 0..65535; where /livez, /readyz and /metrics are; 0: any free one."""
    lease: bool = True
    """RINGKEEP_OPERATOR_LEASE: true or false; only the holder of the Lease acts; false: this is the only operator."""
    lease_namespace: str = ""
    """RINGKEEP_OPERATOR_LEASE_NAMESPACE: where the Lease is; required with it."""
    lease_name: str = "ringkeep-operator"
    """RINGKEEP_OPERATOR_LEASE_NAME: its name."""
    lease_s: float = 15.0
    """RINGKEEP_OPERATOR_LEASE_S: 3..60; a holder that is silent for so long has lost it; it stops at two thirds."""
    identity: str = ""
    """RINGKEEP_OPERATOR_IDENTITY: who holds the Lease; the pod's name. Empty: the host's name and a random part."""
    log_level: str = "info"
    """RINGKEEP_OPERATOR_LOG_LEVEL: debug, info, warning or error."""
    failpoint: str = ""
    """RINGKEEP_OPERATOR_FAILPOINT: name:count; for tests: the process ends the count-th time that it comes there."""

    def __post_init__(self) -> None:
        """Check every field; raise ``BadSetting`` with one sentence."""
        for name in self.namespaces:
            if not is_node_name(name):
                raise BadSetting(f"{PREFIX}NAMESPACES: {name!r} is not the name of a namespace")
        if not 1 <= len(self.field_manager) <= MANAGER_MAX or not self.field_manager.isprintable():
            raise BadSetting(f"{PREFIX}FIELD_MANAGER has 1..{MANAGER_MAX} visible characters")
        for field, least, most in (("resync_s", 1, 600), ("silence_s", 5, 600), ("lease_s", 3, 60), ("passes", 1, 64)):
            value = getattr(self, field)
            if not least <= value <= most:
                raise BadSetting(f"{PREFIX}{field.upper()} is {least}..{most}, not {value:g}")
        if not 0 <= self.port <= 65535:
            raise BadSetting(f"{PREFIX}PORT is 0..65535, not {self.port}")
        if self.lease and not self.lease_namespace:
            raise BadSetting(
                f"{PREFIX}LEASE_NAMESPACE says where the Lease is; without a Lease set {PREFIX}LEASE=false"
            )
        if self.log_level not in LEVELS:
            raise BadSetting(f"{PREFIX}LOG_LEVEL is one of {', '.join(LEVELS)}, not {self.log_level!r}")

    def shown(self) -> dict[str, str]:
        """Return every setting as text for the log."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in values}


VARIABLES = tuple(PREFIX + field.name.upper() for field in dataclasses.fields(OperatorSettings))


def settings_from(environ: Mapping[str, str]) -> OperatorSettings:
    """Return the settings that the environment says. Raises ``BadSetting``, also for a variable that does not exist."""
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in VARIABLES)
    if unknown:
        raise BadSetting(f"there is no setting {unknown[0]}")
    given: dict[str, object] = {}
    for field in dataclasses.fields(OperatorSettings):
        text = environ.get(PREFIX + field.name.upper())
        if text is not None:
            given[field.name] = _value_of(field.name, field.default, text.strip())
    return OperatorSettings(**given)  # type: ignore[arg-type]  # each value has the type of its field's default


def _value_of(name: str, default: object, text: str) -> object:
    variable = PREFIX + name.upper()
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise BadSetting(f"{variable} is true or false, not {text!r}")
        return text == "true"
    if isinstance(default, (int, float)):
        try:
            return type(default)(text)
        except ValueError:
            raise BadSetting(f"{variable} is a number, not {text!r}") from None
    return text
