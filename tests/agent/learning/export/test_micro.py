"""The microcontroller's interpreter, where it is missing or given nothing."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from agent.learning.export.micro import MicroError, run_micro


def test_without_the_interpreter_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(MicroError, match="pip install tflite-micro"):
        run_micro(b"", np.zeros((1, 4), np.int8))


def test_no_rows_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        run_micro(b"", np.zeros((0, 4), np.int8))
