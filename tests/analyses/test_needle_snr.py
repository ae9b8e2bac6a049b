"""The signal-to-noise analysis: what its records are joined with, and what its page says of them."""

from pathlib import Path

import numpy as np
import pytest

from analyses.needle_snr import measures, relation, report, stages
from analyses.needle_snr.run import QUESTION
from diffmamba_interp.analysis.page import RECORDS, RESULTS
from diffmamba_interp.analysis.results import read_records, read_results, write_records, write_results
from diffmamba_interp.drawing.panels import Line
from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.models.demo import DEMO_NAMES, load_demo_tokenizer
from diffmamba_interp.needle import make_needle_samples
from diffmamba_interp.needle.findings import Verdict
from diffmamba_interp.needle.probes import PROBE, SHUFFLED


def made_up_records(folder: Path, n: int = 12) -> Path:
    """Records of `n` prompts in which Diff-Mamba is 3 dB above Mamba-2 at each stage, and what they were made with."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(n, 4))
    lines: dict[str, list] = {name: [] for name in ("model", "lens", "task", "story", "length")}
    stages: dict[str, list] = {f"{name}_{i}": [] for i in range(4) for name in ("snr_db", "log_p")}
    for model in DEMO_NAMES:
        for lens in report.LENSES:
            for k in range(n):
                for key, value in zip(lines, (model, lens, f"qa{1 + k % 2}", f"story{k}", 0), strict=True):
                    lines[key].append(value)
                for i in range(4):
                    stages[f"snr_db_{i}"].append(base[k, i] + 3 * (model == report.MODEL))
                    stages[f"log_p_{i}"].append(-1.0 - i)
    write_records(folder / "records.parquet", lines | stages)
    made = {
        "models": dict.fromkeys(DEMO_NAMES, "none"),
        "lenses": dict.fromkeys(DEMO_NAMES, "none"),
        "tokenizer": "none",
        "recipe": {"name": "builtin"},
        "seed": 7,
        "device": "a GPU",
        "versions": {"torch": "2"},
    }
    write_results(folder / RESULTS, made, {})
    return folder


def test_records_from_another_machine_give_results_figures_and_page_here(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    QUESTION.ask(QUESTION.options(out=tmp_path / "here", from_records=made_up_records(tmp_path / "there")))
    results = read_results(tmp_path / "here" / "builtin" / RESULTS)
    assert results["provenance"]["device"] == "a GPU"
    assert results["attention"] == []  # these weights were not measured by the other analysis
    gains = {verdict["difference_db"] for verdict in results["verdicts"]}
    assert gains == {3.0}
    # Twelve prompts decide, the six of one task do not.
    assert {(v["n"], v["winner"]) for v in results["verdicts"]} == {(12, "diff-mamba2"), (6, None)}
    probability = next(c for c in results["curves"] if c["measure"] == "probability")
    assert probability["value"] == pytest.approx(np.exp([-1.0, -2.0, -3.0, -4.0]), rel=1e-3)
    # Noise about 0 dB comes to stay above a threshold at the output or never; 3 dB more make it earlier.
    whole = [one for one in results["formation_differences"] if "task" not in one["group"]]
    assert [one["criterion"] for one in whole] == ["3 dB", "7 dB", "10 dB"]
    assert whole[0]["mean"]["value"] < 0 < whole[0]["share_formed"]["value"]
    assert whole[0]["inner_db"]["value"] == 3.0
    assert (results["measure_means"], "bits.svg" in (tmp_path / "here" / "README.md").read_text()) == ([], False)
    page = (tmp_path / "here" / "README.md").read_text()
    assert "**the claim holds**" in page
    assert "attention.svg" not in page
    for name in ("probability.svg", "probability_log.svg", "snr_db.svg", "difference.svg"):
        assert (tmp_path / "here" / "builtin" / name).read_text().startswith("<svg")


def test_a_correlation_over_prompts_is_taken_within_tasks() -> None:
    rng = np.random.default_rng(0)
    task = np.array(["qa1", "qa2"] * 40)
    shift = np.where(task == "qa1", 100.0, 0.0)[:, None]
    a, b = rng.normal(size=(2, 80, 1))
    same = np.concatenate([a + shift, a + shift, a + shift], axis=1)
    other = np.concatenate([np.exp(a) + shift, -a + shift, b + shift], axis=1)
    value, low, high = relation.rank_correlation(same, other, task)
    assert value[:2] == pytest.approx([1.0, -1.0])
    assert low[2] < 0 < high[2]
    assert abs(value[2]) < 0.3


def test_attention_and_lens_are_joined_by_task_and_story(tmp_path: Path) -> None:
    records = read_records(made_up_records(tmp_path) / RECORDS)
    lens = report.values_of(records, "mamba2", "tuned", (("length", "0"),))["snr_db"]
    chosen = (records["model"] == "mamba2") & (records["lens"] == "tuned")
    # The other analysis' records of the same prompts, backwards, with the lens' own numbers in them.
    back = {
        name: column[chosen][::-1] for name, column in records.items() if "log_p" not in name and name != "snr_db_3"
    }
    back["picture"] = np.array(["plain"] * chosen.sum())
    back["snr_db_1"] = np.where(back["story"] == "story0", np.nan, back["snr_db_1"])
    read, joined, task = relation.joined(records, back, "mamba2", 0)
    assert len(read) == len(lens) - 1
    np.testing.assert_array_equal(read, joined[:, :3])
    assert sorted(task.tolist()) == ["qa1"] * 5 + ["qa2"] * 6


@pytest.mark.parametrize(
    ("winners", "words"),
    [
        (("diff-mamba2", "diff-mamba2"), "the claim holds**"),
        (("mamba2", "mamba2"), "the opposite holds**"),
        ((None, None), "undecided"),
        (("diff-mamba2", None), "claim holds where"),
        ((None, "mamba2"), "opposite holds where"),
        (("diff-mamba2", "mamba2"), "mixed"),
    ],
)
def test_the_headline_follows_the_verdicts(winners: tuple[str | None, ...], words: str) -> None:
    bounds = {"diff-mamba2": (2.0, 1.0, 3.0), "mamba2": (-2.0, -3.0, -1.0), None: (0.1, -1.0, 1.0)}
    whole = []
    for length, winner in zip(("0", "1024"), winners, strict=True):
        value, low, high = bounds[winner]
        about = {"baseline": "mamba2", "model": "diff-mamba2", "lens": "tuned", "place": "inner stages", "n": 50}
        numbers = {"baseline_db": 0.0, "model_db": value, "difference_db": value, "low": low, "high": high}
        whole.append(Verdict(**about, **numbers, group=(("length", length),), p_value=0.1))
    assert words in report.headline(whole)


def test_bits_and_probes_are_paired_by_prompt_and_drawn_with_their_sign(tmp_path: Path) -> None:
    """Diff-Mamba is 0.5 bits above Mamba-2 at each stage, whatever reads it."""
    samples = make_needle_samples(load_demo_tokenizer(), task="qa1", n=12, length=0)
    bits = np.random.default_rng(0).normal(size=(12, 4)).round(1)
    tables = [
        measures.table(
            model, lens, samples, bits > 0, None if lens == SHUFFLED else bits + 0.5 * (model == "diff-mamba2")
        )
        for model in DEMO_NAMES
        for lens in (stages.TUNED, PROBE, SHUFFLED)
    ]
    # The records of the models are in different orders; prompts are known by story.
    tables[0] = {name: column[::-1] for name, column in tables[0].items()}
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    write_records(tmp_path / stages.MEASURES_FILE, columns)
    found = stages.measures_of(tmp_path, [(("length", "0"),), (("task", "qa1"), ("length", "0"))])
    means = [one for one in found["measure_means"] if one["measure"] == "calibrated_bits"]
    assert [(one["lens"], one["place"]) for one in means[:4]] == [
        (lens, place) for lens in (stages.TUNED, PROBE) for place in ("inner stages", "output")
    ]
    for one in means:
        assert one["difference"].value == pytest.approx(0.5)
        assert one["values"][0] == pytest.approx(
            bits[:, 1:-1].mean() if one["place"] != "output" else bits[:, -1].mean()
        )
    assert {(c["lens"], c["measure"]) for c in found["measure_curves"]} == {
        *((lens, measure) for lens in (stages.TUNED, PROBE) for measure in stages.READINGS),
        (SHUFFLED, "is_right"),
    }
    drawn = stages.drawings(
        {"stages": ["embedding", "after block 0", "after block 1", "output"], "curves": FORMED, **found}, "t"
    )
    (tuned, probe) = drawn["bits_difference"].marks(Line)
    assert (tuned.name, probe.name) == ("diff-mamba2 − mamba2, tuned lens", "diff-mamba2 − mamba2, probe")
    assert tuned.y == pytest.approx([0.5] * 4)
    assert len(list(drawn["probes"].marks(Line))) == 6
    assert drawn["probes"].y.title == "accuracy"


FORMED = [
    {
        **{"model": "mamba2", "lens": "tuned", "measure": "formed_7db", "statistic": "mean", "group": {"length": "0"}},
        **{name: [0.1, 0.2, 0.3, 0.4] for name in ("value", "low", "high")},
        "n": 12,
    }
]


def test_the_shipped_bits_and_probes_are_of_the_shipped_weights_lenses_and_prompts() -> None:
    folder = report.PAGE.folder / "paper"
    results = read_results(folder / RESULTS)
    made = results[stages.MEASURES_MADE]
    assert made["records"] == file_sha256(folder / stages.MEASURES_FILE)
    assert {name: made[name] for name in ("models", "lenses", "data")} == {
        name: results["provenance"][name] for name in ("models", "lenses", "data")
    }
    records, bits = (read_records(folder / name) for name in (RECORDS, stages.MEASURES_FILE))
    keys = ("model", "task", "length", "story")
    prompts = [
        sorted(zip(*(table[key][table["lens"] == lens].tolist() for key in keys), strict=True))
        for table, lens in ((records, "tuned"), (bits, stages.TUNED), (bits, PROBE), (bits, SHUFFLED))
    ]
    assert all(one == prompts[0] for one in prompts)
