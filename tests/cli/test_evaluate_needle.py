"""`python -m diffmamba_interp.evaluate_needle`, from options to the finished folder, through breaks and bad input."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors

from diffmamba_interp import HookedMamba, HookedMambaConfig, evaluate_needle
from diffmamba_interp.files import atomic
from diffmamba_interp.files.locks import LOCK_FILE, folder_lock
from diffmamba_interp.lens import TunedLens, save_lens
from diffmamba_interp.lens.card import lens_sha256
from diffmamba_interp.needle import compare, findings, load_trajectory, trajectory
from diffmamba_interp.needle.recipe_prompts import make_samples, resolved_filler_split
from diffmamba_interp.runs.provenance import weights_sha256
from diffmamba_interp.text import load_tokenizer, save_tokenizer, train_tokenizer
from diffmamba_interp.text.documents import split_of_hash, text_hash
from diffmamba_interp.text.generated_text import generated_documents

SIZES = ["--tasks", "qa1", "qa4", "--lengths", "0", "160", "--n", "3", "--device", "cpu"]
FILES = {
    "recipe.toml",
    "results.json",
    "report.html",
    "snr_db.svg",
    "snr_db_difference.svg",
    "probability.svg",
    "probability_log.svg",
    "formed_7db.svg",
    "calibrated_bits.svg",
    *(f"{name}.{suffix}" for name in ("one", "two") for suffix in ("parquet", "csv.gz")),
}


def save_model(folder: Path, tokenizer: Any, seed: int, **sizes: int) -> None:
    torch.manual_seed(seed)
    cfg = HookedMambaConfig(**{"d_model": 16, "n_layers": 2, "d_vocab": 300, "d_state": 8, "d_head": 8, **sizes})
    model = HookedMamba(cfg)
    model.embed.weight.data.normal_()
    model.save_pretrained(folder)
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
    lens = TunedLens.from_model(model, name=folder.name)
    torch.nn.init.normal_(lens[1].weight, std=0.1)
    save_lens(lens, f"{folder}-lens")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders one, two (a pair), deep, wordy (no partners), bare (no tokenizer), each with its lens in NAME-lens."""
    folder = tmp_path_factory.mktemp("models")
    texts = list(generated_documents(n_chars=60_000, seed=1))
    tokenizer, other = train_tokenizer(texts, vocab_size=300), train_tokenizer(texts, vocab_size=290)
    save_model(folder / "one", tokenizer, 0)
    save_model(folder / "two", tokenizer, 1)
    save_model(folder / "deep", tokenizer, 2, n_layers=3)
    save_model(folder / "wordy", tokenizer, 3, d_vocab=310)
    save_model(folder / "stranger", other, 4)
    save_model(folder / "bare", None, 5)
    return folder


@pytest.fixture
def options(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Model two with its lens against baseline one with its own, into tmp_path/out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(findings, "RUN_RESAMPLES", 50)
    return [*pair(models, "two", "one"), "--out", str(tmp_path / "out"), *SIZES]


def pair(models: Path, model: str, baseline: str) -> list[str]:
    return [
        *("--model", str(models / model), "--lens", str(models / f"{model}-lens")),
        *("--baseline", str(models / baseline), "--baseline-lens", str(models / f"{baseline}-lens")),
    ]


def failure(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert evaluate_needle.main(args) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.err.strip().splitlines()[-1]


def test_a_run_leaves_a_complete_folder_and_prints_a_row_per_cell_and_place(
    options: list[str], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate_needle.main(options) == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == FILES
    judged, formed = capsys.readouterr().out.split("The first stage from which the SNR stays above 7 dB")
    rows, formed_rows = (
        [[cell.strip() for cell in line.split("|")] for line in table.splitlines() if line.startswith("|")][2:]
        for table in (judged, formed)
    )
    every = [("all", "0"), ("all", "160"), *((task, length) for task in ("qa1", "qa4") for length in ("0", "160"))]
    assert [(row[1], row[2]) for row in rows] == [cell for cell in every for _ in range(2)]
    whose = ("one", "two", "two − one")
    assert [(row[1], row[2], row[6]) for row in formed_rows] == [(*cell, name) for cell in every for name in whose]
    made = json.loads((out / "results.json").read_text())["provenance"]
    assert made["models"] == {name: weights_sha256(models / name) for name in ("one", "two")}
    assert made["lenses"] == {name: lens_sha256(models / f"{name}-lens") for name in ("one", "two")}
    assert (made["seed"], made["recipe"]["n"], made["device"]) == (0, 3, "cpu")
    # The recipe that was written gives the same run.
    assert evaluate_needle.parse(["--recipe", str(out / "recipe.toml")]) == evaluate_needle.parse(options)


def test_the_results_follow_from_the_records(options: list[str], tmp_path: Path) -> None:
    assert evaluate_needle.main(options) == 0
    out = tmp_path / "out"
    first, second = (load_trajectory(out / f"{name}.parquet") for name in ("one", "two"))
    assert first.lenses == ("tuned", "logit")
    np.testing.assert_array_equal(load_trajectory(out / "one.csv.gz").log_probs, first.log_probs)
    results = json.loads((out / "results.json").read_text())
    kept = {(c["lens"], c["measure"], c["statistic"], *c["group"].values()): c for c in results["differences"]}
    for curve in compare(first, second, n_resamples=50):
        own = kept[curve.lens, curve.measure, curve.statistic, *dict(curve.group).values()]
        for name in ("value", "low", "high", "p_value"):
            assert own[name] == pytest.approx(getattr(curve, name), rel=1e-4)
    inner, output = (
        next(v for v in results["verdicts"] if v["place"] == place and v["group"] == {"length": "160"})
        for place in ("inner stages", "output")
    )
    chosen = [i for i, sample in enumerate(first.samples) if sample.length == 160]
    gain = (second.snr_db - first.snr_db)[0, chosen].mean(axis=0)
    assert inner["difference_db"] == pytest.approx(gain[1:-1].mean(), rel=1e-4)
    assert output["difference_db"] == pytest.approx(gain[-1], rel=1e-4)
    assert inner["winner"] is None  # three prompts a task decide nothing


def test_the_page_needs_no_network_and_escapes_names(options: list[str], models: Path, tmp_path: Path) -> None:
    (tmp_path / "a<b&c").symlink_to(models / "two")
    assert evaluate_needle.main([*options, "--model", str(tmp_path / "a<b&c")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    outside_script = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert re.findall(r"(?:src|href)\s*=", page.split("</head>")[1]) == []
    assert "a&lt;b&amp;c" in outside_script
    assert "a<b" not in outside_script
    assert outside_script.count("<svg") == 5
    assert outside_script.count('class="plotly-graph-div"') == 2 * 9  # of every length


def test_a_stopped_run_goes_on_where_it_was_and_gives_the_same_results(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate_needle.main(options) == 0
    whole = (tmp_path / "out" / "results.json").read_text()
    options = [*options, "--out", str(tmp_path / "again"), "--batch-tokens", "100"]
    read, calls = trajectory.read_batch, []

    def stops_at_third(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read(*args)

    monkeypatch.setattr(trajectory, "read_batch", stops_at_third)
    assert evaluate_needle.main(options) == 130
    n_parts = len(list((tmp_path / "again" / "parts").rglob("*.safetensors")))
    assert n_parts == 2
    assert evaluate_needle.main(options) == 0
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    n_batches = len(calls) - 1
    assert evaluate_needle.main([*options, "--out", str(tmp_path / "third")]) == 0
    assert len(calls) - 1 - n_batches == n_batches  # those that were read before the stop were not read again
    for one, other in zip(json.loads(whole)["curves"], again["curves"], strict=True):
        assert one["value"] == pytest.approx(other["value"], rel=1e-3, abs=1e-4)


def test_another_seed_gives_other_prompts_and_a_single_model_needs_no_baseline(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = [*options, "--baseline", "none", "--lens", "none", "--tasks", "qa1"]
    ids = []
    for seed in ("0", "1"):
        as_json = ["--json"] if seed == "0" else []
        assert evaluate_needle.main([*alone, "--seed", seed, "--out", str(tmp_path / seed), *as_json]) == 0
        kept = load_trajectory(tmp_path / seed / "two.parquet")
        ids.append({sample.id for sample in kept.samples})
    assert kept.lenses == ("logit",)
    assert not ids[0] & ids[1]
    results = json.loads((tmp_path / "1" / "results.json").read_text())
    assert results["differences"] == results["verdicts"] == []
    assert results["provenance"]["lenses"] == {}
    told, end = json.JSONDecoder().raw_decode(said := capsys.readouterr().out)
    assert told == {"out": str(tmp_path / "0"), "report": str(tmp_path / "0" / "report.html"), "verdicts": []}
    assert "after block 0" in said[end:]
    before = (tmp_path / "1" / "results.json").read_bytes()
    assert evaluate_needle.main([*alone, "--seed", "2", "--out", str(tmp_path / "1")]) == 2
    assert "another recipe: give another --out" in capsys.readouterr().err
    assert (tmp_path / "1" / "results.json").read_bytes() == before


def test_a_recipe_file_gives_options_that_the_command_line_overrides(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('tasks = ["qa2"]\nn = 7\nlengths = [64]\n')
    recipe = evaluate_needle.parse(["--recipe", str(tmp_path / "recipe.toml"), "--n", "9"])
    assert (recipe.tasks, recipe.n, recipe.lengths) == (("qa2",), 9, (64,))
    assert evaluate_needle.parse([f"--recipe={tmp_path / 'recipe.toml'}"]).n == 7


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--tasks", "qa9"], "tasks are qa9: choose among qa1"),
        (["--tasks", "qa1", "qa1"], "holds a value twice"),
        (["--n", "0"], "n is 0"),
        (["--lengths", "-5"], "0 for the facts alone"),
        (["--baseline", "two"], "model and baseline are both"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_with_what_to_do(
    extra: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = evaluate_needle.main(["--model", "two", *extra])
    except SystemExit as exit_:  # newer releases of tyro end the process themselves
        code = exit_.code
    assert code == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_found_is_named(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "missing.toml is no file" in failure([*options, "--recipe", "missing.toml"], capsys)
    assert "there is no folder 'no-model'" in failure([*options, "--model", "no-model"], capsys)
    assert "there is no lens folder 'no-lens'" in failure([*options, "--lens", "no-lens"], capsys)


def test_a_length_shorter_than_the_stories_is_refused(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diffmamba_interp.needle.samples._PATIENCE", 10)
    message = failure([*options, "--lengths", "12"], capsys)
    assert "only 0 stories of qa1 (split 'eval') fit a length of 12 tokens, but n is 3" in message


def test_a_lens_of_another_model_is_refused(
    options: list[str], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "was trained with another unembedding" in failure([*options, "--lens", str(models / "one-lens")], capsys)
    assert "is for d_model 16 and 3 blocks" in failure([*options, "--lens", str(models / "deep-lens")], capsys)


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        ("deep", "has n_layers 2, but the baseline"),
        ("wordy", "has d_vocab 300, but the baseline"),
        ("stranger", "have different tokenizers"),
    ],
)
def test_a_baseline_that_cannot_be_compared_is_refused(
    baseline: str, words: str, options: list[str], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in failure([*options, *pair(models, "two", baseline)], capsys)


def test_a_model_without_a_tokenizer_asks_for_one(
    options: list[str], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = [*options, *pair(models, "bare", "one"), "--baseline", "none"]
    assert "holds no tokenizer: give --tokenizer" in failure(alone, capsys)
    assert evaluate_needle.main([*alone, "--tokenizer", str(models / "one")]) == 0


def test_measuring_other_weights_into_a_folder_that_was_stopped_is_refused(
    options: list[str],
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trajectory, "read_batch", interrupted)
        assert evaluate_needle.main(options) == 130
    message = failure([*options, "--baseline-lens", "none"], capsys)
    assert "holds another measurement (it differs in lenses)" in message


def test_all_of_a_filler_of_ones_own_is_used_and_its_evaluation_split_when_asked(
    options: list[str], models: Path, tmp_path: Path
) -> None:
    texts = [text for document in generated_documents(n_chars=60_000, seed=5) for text in document.split("\n\n")]
    rows = [*({"body": text} for text in texts), {"body": None}]
    (tmp_path / "filler.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [*options, "--filler", "filler.jsonl", "--text-field", "body", "--skip-empty"]
    tokenizer = load_tokenizer(models / "one")

    def used(*more: str) -> set[str]:
        recipe = evaluate_needle.parse([*options, *more])
        recipe = replace(recipe, filler_split=resolved_filler_split(recipe))
        samples = make_samples(recipe, tokenizer)
        return {text for text in texts if any(text[-40:] in sample.prompt for sample in samples)}

    assert any(split_of_hash(text_hash(text)) != "eval" for text in used())
    by_hash = used("--filler-split", "eval")
    assert by_hash <= {text for text in texts if split_of_hash(text_hash(text)) == "eval"}
    assert evaluate_needle.main([*options, "--lengths", "160"]) == 0
    made = json.loads((tmp_path / "out" / "results.json").read_text())["provenance"]
    assert made["recipe"]["filler_split"] == "whole"
    assert made["filler"]


def test_prompts_begin_as_the_tokenizers_template_has_it_and_the_log_says_so(
    options: list[str], models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load_tokenizer(models / "one")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|pad|> $A", special_tokens=[("<|pad|>", 1)]
    )
    save_tokenizer(tokenizer, tmp_path / "llama")
    begun, plain = (
        make_samples(evaluate_needle.parse([*options, "--bos", bos]), load_tokenizer(tmp_path / "llama"))
        for bos in ("auto", "never")
    )
    assert {int(sample.tokens[0]) for sample in begun} == {1}
    assert all(sample.tokens[0] != 1 for sample in plain)
    with caplog.at_level("INFO"):
        assert evaluate_needle.main([*options, "--baseline", "none", "--lens", "none", "--bos", "always"]) == 0
    assert "every prompt begins with <|endoftext|>, as bos = 'always' says" in caplog.text
    assert json.loads((tmp_path / "out" / "results.json").read_text())["provenance"]["recipe"]["bos"] == "always"


def test_a_folder_of_before_there_was_a_choice_is_still_the_recipes_own(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate_needle.main(options) == 0
    recipe = tmp_path / "out" / "recipe.toml"
    newer = ("filler_split", "text_field", "skip_empty", "bos")
    lines = [line for line in recipe.read_text().splitlines() if not line.startswith(newer)]
    recipe.write_text("\n".join(lines) + "\n")
    assert evaluate_needle.main(options) == 0
    assert "another recipe" in failure([*options, "--bos", "always"], capsys)


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = evaluate_needle.parse(["--filler=~/a", "--babi=~/b", "--out=~/c", "--model=~/d", "--lens=~/e"])
    given = (recipe.filler, recipe.babi, recipe.out, recipe.model, recipe.lens)
    assert given == tuple(str(tmp_path / name) for name in "abcde")
    assert recipe.baseline_lens == "auto"


def test_a_folder_that_another_process_writes_is_refused_and_left_alone(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with folder_lock(tmp_path / "out"):
        assert evaluate_needle.main(options) == 2
        assert "another process writes into" in capsys.readouterr().err
        assert [file.name for file in (tmp_path / "out").iterdir()] == [LOCK_FILE]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--device", "gpu"], "error: device is 'gpu', which names none: give cpu, cuda"),
        (["--device", ""], "error: device is '', which names none"),
        (["--device", "meta"], "error: device is 'meta', which is none that this machine computes on"),
        (["--recipe"], "error: --recipe needs the path of a TOML file."),
        (["--recipe", "."], "error: . is a folder: give the path of a recipe"),
        (["--out", "file"], "file is there already, and is not a folder. Move it away"),
    ],
)
def test_bad_options_are_one_clear_line(
    options: list[str], changed: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert evaluate_needle.main([*options, *changed]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_full_disk_is_named_with_the_file_and_the_same_command_goes_on(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", no_space)
        assert evaluate_needle.main(options) == 2
    assert f"no space is left on the disk of {tmp_path / 'out'}" in capsys.readouterr().err
    assert evaluate_needle.main(options) == 0
