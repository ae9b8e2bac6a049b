"""A results.json keeps digits, not decimals, and puts rows of numbers on one line."""

import json

import numpy as np

from diffmamba_interp.needle.results_json import results_json


def test_small_numbers_keep_their_digits_and_nothing_is_lost() -> None:
    content = {
        "curve": (1.2345678e-9, float("nan"), np.float32(0.1), np.int64(7), True, None),
        "lists": [[1, 2], [3.0]],
        "text": "a [b] c",
        "empty": [],
    }
    text = results_json(content)
    assert json.loads(text) == {
        "curve": [1.2346e-9, None, 0.1, 7, True, None],
        "lists": [[1, 2], [3.0]],
        "text": "a [b] c",
        "empty": [],
    }
    assert ' "curve": [1.2346e-09, null, 0.1, 7, true, null],\n' in text


def test_a_row_of_estimates_stands_on_one_line_under_its_name() -> None:
    content = {"cells": [{"task": "qa1", "shares": {"a": {"x": [0.1, 0.0, 0.2]}, "b": {"x": [0.3, 0.2, 0.4]}}}]}
    lines = results_json(content).split("\n")
    assert '    "a": {"x": [0.1, 0.0, 0.2]},' in lines
    assert '    "b": {"x": [0.3, 0.2, 0.4]}' in lines
    assert json.loads("\n".join(lines)) == content
