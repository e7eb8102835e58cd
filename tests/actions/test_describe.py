"""Invalid options of `dit-lab describe`."""

from __future__ import annotations

import pytest

from dit_lab.cli.main import main

SHARE = "expected a number above 0 and at most 1, such as 0.4"
WHOLE = "expected a whole number above 0, such as 8"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--flops-per-second", "0", "0: expected a number above 0, such as 1e12"),
        ("--flops-per-second", "inf", "inf: expected a number above 0, such as 1e12"),
        ("--utilisation", "0", f"0: {SHARE}"),
        ("--utilisation", "1.01", f"1.01: {SHARE}"),
        ("--utilisation", "nan", f"nan: {SHARE}"),
        ("--devices", "0", f"0: {WHOLE}"),
        ("--devices", "-2", f"-2: {WHOLE}"),
        ("--price-per-device-hour", "0", "0: expected a number above 0, such as 2.5"),
    ],
)
def test_refused(option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", f"{option}={value}"]) == 2
    assert capsys.readouterr().err == f"dit-lab: {option} {said}\n"
