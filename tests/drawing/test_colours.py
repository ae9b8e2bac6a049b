"""One look per model, branch, span, lens and state, wherever it is drawn; scales that run from blue to red."""

import itertools

import numpy as np
import pytest

from diffmamba_interp.drawing.colours import (
    BRANCHES,
    DARK_GROUND,
    DEPTH,
    LEAST_CONTRAST,
    LENSES,
    LIGHT_GROUND,
    MAGNITUDE,
    MODELS,
    NEGATIVE,
    OTHER_MODELS,
    POSITIVE,
    SERIES,
    SIGNED,
    SIGNED_ON_DARK,
    SPANS,
    STATES,
    colour_at,
    contrast,
    faded,
    model_styles,
    on_dark,
    series_styles,
    short_name,
    text_on,
)

BLUE, VERMILION = "#0072B2", "#D55E00"


def channels(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def brightness(colour: str) -> float:
    return sum(weight * channel for weight, channel in zip((0.299, 0.587, 0.114), channels(colour), strict=True))


def test_the_plain_model_is_blue_and_solid_and_the_differential_one_vermilion_and_dashed() -> None:
    plain, differential = model_styles(["mamba2", "diff-mamba2"]).values()
    assert (plain.colour, plain.dash, plain.symbol) == (BLUE, "solid", "circle")
    assert (differential.colour, differential.dash, differential.symbol) == (VERMILION, "dash", "square")


def test_a_model_keeps_its_look_whatever_stands_beside_it() -> None:
    alone = {name: model_styles([name])[name] for name in ("mamba2", "diff-mamba2", "mine")}
    for order in itertools.permutations(alone):
        assert model_styles(order) == alone
    assert model_styles(["bundled:mamba2"])["bundled:mamba2"] == alone["mamba2"]


def test_models_that_choose_the_same_look_get_different_ones() -> None:
    names = [f"model {number}" for number in range(4)]
    assert len({style.colour for style in model_styles(names).values()}) == 4
    assert len(model_styles([*names, "a fifth"])) == 5


def test_the_colours_of_models_are_of_models_alone() -> None:
    models = {style.colour for style in (*MODELS.values(), *OTHER_MODELS)}
    assert len(models) == len(MODELS) + len(OTHER_MODELS)
    others = [style.colour for look in (BRANCHES, SPANS, LENSES, STATES) for style in look.values()]
    assert not models & {*others, *(style.colour for style in SERIES), NEGATIVE, POSITIVE}


@pytest.mark.parametrize(
    "names", [list(MODELS), list(SPANS)[:4], list(LENSES), list(STATES), ["minuend", "subtrahend"]]
)
def test_what_stands_side_by_side_differs_in_colour_and_in_dashes(names: list[str]) -> None:
    styles = series_styles(names).values()
    assert len({style.colour for style in styles}) == len({(s.dash, s.symbol) for s in styles}) == len(names)


def test_a_name_that_has_a_look_keeps_it_among_others() -> None:
    styles = series_styles(["x", "needle", "diff-mamba2", "before", "y"])
    assert styles["needle"].colour == "#E69F00"
    assert styles["diff-mamba2"].colour == VERMILION
    assert styles["before"] == STATES["before"] == model_styles(["before"])["before"]
    assert (styles["x"], styles["y"]) == SERIES[:2]


def test_many_series_are_coloured_by_depth() -> None:
    styles = list(series_styles(map(str, range(9))).values())
    assert (styles[0].colour, styles[-1].colour) == (DEPTH[0], DEPTH[-1])
    assert len({style.colour for style in styles}) == 9


def test_negative_is_blue_positive_is_red_and_nothing_is_nearly_white() -> None:
    for negative, positive in ((colour_at(SIGNED, 0.1), colour_at(SIGNED, 0.9)), (NEGATIVE, POSITIVE)):
        assert channels(negative)[2] > 1.5 * channels(negative)[0]
        assert channels(positive)[0] > 1.5 * channels(positive)[2]
    assert min(channels(colour_at(SIGNED, 0.5))) > 240


@pytest.mark.parametrize("scale", [MAGNITUDE, DEPTH])
def test_scales_of_magnitudes_get_brighter(scale: tuple[str, ...]) -> None:
    levels = [brightness(colour_at(scale, share / 20)) for share in range(21)]
    assert levels == sorted(levels)


def test_colours_between_two_stops_are_mixed_and_ends_are_kept() -> None:
    assert colour_at(("#000000", "#FF8000"), 0.5) == "#804000"
    assert colour_at(SIGNED, -3.0) == SIGNED[0]
    assert colour_at(SIGNED, 7.0) == SIGNED[-1]
    assert faded("#0072B2", 0.5) == "rgba(0, 114, 178, 0.5)"


def test_text_can_be_read_on_every_colour_of_every_scale() -> None:
    for colour in (*SIGNED, *MAGNITUDE, *DEPTH, *(style.colour for style in SPANS.values())):
        assert abs(brightness(text_on(colour)) - brightness(colour)) > 80, colour
    for scale in (SIGNED, SIGNED_ON_DARK, MAGNITUDE, DEPTH):
        for colour in (colour_at(scale, share / 200) for share in range(201)):
            assert contrast(text_on(colour), colour) >= 4.5, colour


LINES = [
    style.colour
    for looks in (MODELS, BRANCHES, SPANS, LENSES, STATES)
    for name, style in looks.items()
    if name != "other"  # fills areas
] + [style.colour for style in (*OTHER_MODELS, *SERIES)]


@pytest.mark.parametrize("colour", sorted(set(LINES)))
def test_a_line_can_be_seen_on_the_dark_ground_in_its_hue(colour: str) -> None:
    shown = on_dark(colour)
    assert contrast(shown, DARK_GROUND) >= LEAST_CONTRAST
    assert contrast(colour, LIGHT_GROUND) > 2
    if contrast(colour, DARK_GROUND) >= LEAST_CONTRAST:
        assert shown == colour
    spread = max(channels(colour)) - min(channels(colour))
    if spread > 30:
        strongest = channels(colour).index(max(channels(colour)))
        assert channels(shown)[strongest] == max(channels(shown))


def test_models_stay_apart_on_the_dark_ground_and_black_becomes_white() -> None:
    models = [on_dark(style.colour) for style in (*MODELS.values(), *OTHER_MODELS)]
    assert len(set(models)) == len(models)
    assert brightness(on_dark("#222222")) > 220


def test_contrast_is_21_between_black_and_white_and_1_to_itself() -> None:
    assert contrast("#000000", "#FFFFFF") == contrast("#FFFFFF", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)
    assert contrast("#D55E00", "#D55E00") == 1


def test_the_scale_of_the_dark_ground_has_the_same_directions_and_a_dark_middle() -> None:
    assert len(SIGNED_ON_DARK) == len(SIGNED)
    low, high = channels(colour_at(SIGNED_ON_DARK, 0.25)), channels(colour_at(SIGNED_ON_DARK, 0.75))
    assert low[2] > 1.5 * low[0]
    assert high[0] > 1.5 * high[2]
    assert contrast(colour_at(SIGNED_ON_DARK, 0.5), DARK_GROUND) < 1.2
    below = [brightness(colour_at(SIGNED_ON_DARK, share / 20)) for share in range(11)]
    assert below == sorted(below, reverse=True)


def seen(colour: str, matrix: np.ndarray) -> np.ndarray:
    """Where an eye sees a colour in CIE L*a*b*, in which equal distances look about equally far."""
    shares = np.array(channels(colour)) / 255
    linear = matrix @ np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear.clip(0, 1)
    x, y, z = (
        share ** (1 / 3) if share > 0.008856 else 7.787 * share + 16 / 116 for share in xyz / [0.9505, 1.0, 1.089]
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Full loss of one kind of cone: Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
EYES = {
    "all cones": np.eye(3),
    "no green": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "no red": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "no blue": np.array([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
}


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("ground", ["light", "dark"])
def test_what_stands_side_by_side_is_told_apart_by_every_eye(eye: str, ground: str) -> None:
    for looks in (list(MODELS.values()) + list(OTHER_MODELS), list(STATES.values()), list(LENSES.values())):
        for one, two in itertools.combinations([style.colour for style in looks], 2):
            pair = (on_dark(one), on_dark(two)) if ground == "dark" else (one, two)
            first, second = (seen(colour, EYES[eye]) for colour in pair)
            assert np.linalg.norm(first - second) > 10, (one, two)


def test_short_names_are_what_a_reader_is_told() -> None:
    assert short_name("lambda_subtrahend") == "λ · subtrahend"
    assert short_name("subtrahend") == "subtrahend (without λ)"
    assert short_name("net") == "written"
    assert short_name("bundled:mamba2") == "mamba2"
    assert short_name("minuend") == "minuend"
