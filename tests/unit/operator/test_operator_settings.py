"""The operator's settings and logs, and the page that describes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ringkeep_core.errors import BadSetting
from ringkeep_operator.settings import VARIABLES, OperatorSettings, settings_from

SOURCES = Path(__file__).parents[3] / "operator" / "ringkeep_operator"
PAGE = (Path(__file__).parents[3] / "docs" / "operator.md").read_text()


def test_settings_come_from_the_environment_and_what_is_left_out_has_its_default() -> None:
    found = settings_from(
        {
            "RINGKEEP_OPERATOR_NAMESPACES": "a, b",
            "RINGKEEP_OPERATOR_LEASE_NAMESPACE": "a",
            "RINGKEEP_OPERATOR_RESYNC_S": "5",
            "RINGKEEP_OPERATOR_PORT": "0",
            "PATH": "/bin",
        }
    )

    assert found == OperatorSettings(namespaces=("a", "b"), lease_namespace="a", resync_s=5.0, port=0)


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("NAMESPACES", "Not_A_Name", "'Not_A_Name' is not the name of a namespace"),
        ("RESYNC_S", "soon", "RESYNC_S is a number, not 'soon'"),
        ("RESYNC_S", "0", "RESYNC_S is 1..600, not 0"),
        ("SILENCE_S", "1", "SILENCE_S is 5..600, not 1"),
        ("LEASE_S", "600", "LEASE_S is 3..60, not 600"),
        ("PASSES", "0", "PASSES is 1..64, not 0"),
        ("PORT", "70000", "PORT is 0..65535, not 70000"),
        ("LEASE", "yes", "LEASE is true or false, not 'yes'"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL is one of debug, info, warning, error, not 'loud'"),
        ("FIELD_MANAGER", "", "FIELD_MANAGER has 1..64 visible characters"),
        ("LEASE_NAMESPACE", "", "LEASE_NAMESPACE says where the Lease is"),
        ("COLOUR", "red", "there is no setting RINGKEEP_OPERATOR_COLOUR"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_the_name_of_its_variable(
    variable: str, value: str, sentence: str
) -> None:
    environ = {"RINGKEEP_OPERATOR_LEASE_NAMESPACE": "a", f"RINGKEEP_OPERATOR_{variable}": value}

    with pytest.raises(BadSetting, match=re.escape(sentence)):
        settings_from(environ)


def test_the_page_lists_every_variable_with_its_default_and_no_other() -> None:
    rows = dict(re.findall(r"^\| `(RINGKEEP_OPERATOR_\w+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    shown = OperatorSettings(lease=False).shown() | {"lease": "true"}
    defaults = {f"RINGKEEP_OPERATOR_{name.upper()}": value or "none" for name, value in shown.items()}

    assert sorted(rows) == sorted(VARIABLES)
    assert {name: value.strip() for name, value in rows.items()} == defaults


def test_the_page_lists_every_event_of_the_log_and_no_other() -> None:
    text = "\n".join(path.read_text() for path in sorted(SOURCES.glob("*.py")))
    calls = re.findall(r"\b(?:logger\.\w+|_?log|self\._logger\.\w+)\(\s*([^)]*?)[,)]", text)
    said = {event for call in calls for event in re.findall(r'"([a-z]+(?:_[a-z]+)*)"', call)}
    section = PAGE.partition("## Logs")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)

    assert {event for row in rows for event in re.findall(r"`(\w+)`", row)} == said
