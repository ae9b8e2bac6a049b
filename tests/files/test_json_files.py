"""JSON has one rule for what it has no number for, and what is no JSON is named with its file."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from diffmamba_interp.files.json_files import (
    json_text,
    number,
    numbers,
    parse_json,
    read_json_object,
    read_toml,
    results_json,
    write_json,
)


def test_nan_is_null_and_infinity_a_word_and_both_come_back(tmp_path: Path) -> None:
    value = {"a": [math.nan, math.inf, -math.inf, 1.5], "b": np.array([np.nan, 2.0]), 3: np.int64(4), "t": (True, None)}
    assert json.loads(json_text(value), parse_constant=pytest.fail) == {
        "a": [None, "inf", "-inf", 1.5],
        "b": [None, 2.0],
        "3": 4,
        "t": [True, None],
    }
    write_json(tmp_path / "x.json", value)
    back = [number(item) for item in read_json_object(tmp_path / "x.json")["a"]]
    assert math.isnan(back[0])
    assert back[1:] == [math.inf, -math.inf, 1.5]


def test_an_array_comes_back_from_what_this_and_older_versions_wrote_for_nan_and_infinity() -> None:
    # Older records say NaN by a word.
    back = numbers([[None, 1], ["nan", "inf"], ["-inf", 2.5]])
    assert np.array_equal(back, [[np.nan, 1], [np.nan, np.inf], [-np.inf, 2.5]], equal_nan=True)


def test_what_is_not_plain_is_refused() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        json_text({"a": object()})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"", "not valid JSON"),
    ],
)
def test_what_is_no_json_is_named_with_its_source(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"config.json is {message}"):
        parse_json(content, source="config.json")


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}', source="x") == {"a": 1}
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    assert read_toml(tmp_path / "r.toml") == {"a": 1}


@pytest.mark.parametrize("content", [b"a = " + b"[" * 200_000, b"a = ", b"a = '\xff'"])
def test_what_is_no_toml_is_named_with_its_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(ValueError, match="r.toml is "):
        read_toml(tmp_path / "r.toml")


def test_an_object_is_asked_for_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(ValueError, match="x.json holds a JSON list, not an object"):
        read_json_object(tmp_path / "x.json")


def test_small_numbers_keep_their_digits_and_nothing_is_lost() -> None:
    content = {
        "curve": (1.2345678e-9, float("nan"), math.inf, np.float32(0.1), np.int64(7), True, None),
        "lists": [[1, 2], [3.0]],
        "text": "a [b] c",
        "empty": [],
    }
    text = results_json(content)
    assert json.loads(text) == {
        "curve": [1.2346e-9, None, "inf", 0.1, 7, True, None],
        "lists": [[1, 2], [3.0]],
        "text": "a [b] c",
        "empty": [],
    }
    assert '\n"curve":[1.2346e-09,null,"inf",0.1,7,true,null],\n' in text


def test_a_row_of_estimates_stands_on_one_line_under_its_name() -> None:
    content = {"cells": [{"task": "qa1", "shares": {"a": {"x": [0.1, 0.0, 0.2]}, "b": {"x": [0.3, 0.2, 0.4]}}}]}
    lines = results_json(content).split("\n")
    assert '"a":{"x":[0.1,0.0,0.2]},' in lines
    assert '"b":{"x":[0.3,0.2,0.4]}' in lines
    assert json.loads("\n".join(lines)) == content
