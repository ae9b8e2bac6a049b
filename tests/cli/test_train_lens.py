"""`python -m diffmamba_interp.train_lens`, from options to the finished folder, through kills and bad input."""

import json
import random
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig, train_lens
from diffmamba_interp.files.locks import LOCK_FILE, folder_lock
from diffmamba_interp.lens import JacobianLens, TunedLens, load_lens
from diffmamba_interp.lens.card import read_metrics
from diffmamba_interp.lens.materials import load_materials
from diffmamba_interp.text import load_tokenizer, save_tokenizer, train_tokenizer
from diffmamba_interp.text.generated_text import generated_documents

if TYPE_CHECKING:
    from tests.cli.conftest import Forker

SIZES = ["--steps", "6", "--tokens-per-step", "64", "--sequence-length", "16", "--eval-tokens", "32"]


@pytest.fixture
def fixture_model(fixtures_dir: Path) -> str:
    return str(fixtures_dir / "published_diffmamba2" / "alternate")


@pytest.fixture
def options(fixture_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run of six small steps on random tokens, into tmp_path/lens."""
    monkeypatch.chdir(tmp_path)
    return ["--model", fixture_model, "--out", str(tmp_path / "lens"), "--micro-batch", "2", *SIZES]


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tokenizer, and beside it documents to train on."""
    folder = tmp_path_factory.mktemp("text")
    texts = list(generated_documents(n_chars=120_000, seed=1))
    tokenizer = train_tokenizer(texts, vocab_size=300)
    torch.manual_seed(0)
    model = HookedMamba(HookedMambaConfig(d_model=32, n_layers=2, d_vocab=300, d_state=8, d_head=16))
    model.embed.weight.data.normal_()
    model.save_pretrained(folder / "model")
    save_tokenizer(tokenizer, folder / "model")
    with (folder / "texts.jsonl").open("w") as file:
        for i, text in enumerate(texts):
            for part in range(0, len(text), 300):
                file.write(json.dumps({"text": f"{i} {part} {text[part : part + 300]}"}) + "\n")
    return folder


def two_processes() -> tuple[dict[str, str], ...]:
    """The environments that torchrun gives to two processes of one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return tuple(common | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1"))


def failure(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert train_lens.main(args) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.err.strip().splitlines()[-1]


def test_a_run_leaves_a_complete_folder_and_prints_a_row_per_block(
    options: list[str], fixture_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_lens.main(options) == 0
    out = tmp_path / "lens"
    names = {"recipe.toml", "config.json", "params.pt", "lens.json", "metrics.json", "CARD.md", "figure.svg"}
    assert {p.name for p in out.iterdir()} == names | {"log.jsonl"}
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert rows == ["embedding", "after block 0", "after block 1", "after block 2"]
    measured, provenance, recipe = read_metrics(out)
    assert all(stage.kl_saved_nats.value > 0 for stage in measured.stages[:2])
    assert provenance.data_sha256 is None
    assert recipe["data"] == "random-tokens"
    assert len((out / "log.jsonl").read_text().splitlines()) == 6
    model = HookedMamba.from_pretrained(fixture_model)
    assert isinstance(load_lens(out, model), TunedLens)


def test_a_finished_run_is_measured_again_and_another_recipe_is_refused(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_lens.main(options) == 0
    params = (tmp_path / "lens" / "params.pt").read_bytes()
    capsys.readouterr()
    assert train_lens.main([*options, "--quiet"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(f"written to {tmp_path / 'lens'}")
    assert train_lens.main([*options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.pop("out") == str(tmp_path / "lens")
    assert told == json.loads((tmp_path / "lens" / "metrics.json").read_text())
    assert (tmp_path / "lens" / "params.pt").read_bytes() == params
    assert "lr_scale = 1.0, but this command says lr_scale = 0.5" in failure([*options, "--lr-scale", "0.5"], capsys)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a model of two differential blocks, whose Jacobians have sixteen rows."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    cfg = HookedMambaConfig(
        d_model=16, n_layers=2, d_vocab=40, d_state=4, d_head=8, differential=DifferentialConfig(placement="all")
    )
    model = HookedMamba(cfg)
    model.embed.weight.data.normal_()
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def jacobian_options(tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A Jacobian lens of six prompts of random tokens, into tmp_path/lens: three batches of two steps."""
    monkeypatch.chdir(tmp_path)
    prompts = ["--prompts", "6", "--prompt-tokens", "24", "--micro-batch", "2", "--branches"]
    sizes = ["--sequence-length", "16", "--eval-tokens", "32"]
    return ["--kind", "jacobian", "--model", tiny_model, "--out", str(tmp_path / "lens"), *prompts, *sizes]


def test_a_jacobian_lens_is_fitted_measured_and_shown_like_a_tuned_one(
    jacobian_options: list[str], tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_lens.main([*jacobian_options, "--storage", "int8"]) == 0
    out = tmp_path / "lens"
    names = {"recipe.toml", "config.json", "params.pt", "lens.json", "metrics.json", "CARD.md", "figure.svg"}
    assert {p.name for p in out.iterdir()} == names | {"log.jsonl"}
    printed = capsys.readouterr().out
    assert "| jacobian lens KL" in printed
    measured, provenance, recipe = read_metrics(out)
    assert (recipe["kind"], recipe["prompts"], recipe["branches"]) == ("jacobian", 6, True)
    assert "optimizer" not in recipe
    model = HookedMamba.from_pretrained(tiny_model)
    lens = load_lens(out, model)
    assert isinstance(lens, JacobianLens)
    assert (lens.config.n_prompts, len(lens.branches)) == (6, 4)
    card = (out / "CARD.md").read_text()
    assert "# Jacobian lens of" in card
    assert "mean over 6 pieces of text of 24 tokens, without the first 16 positions and the last" in card
    lines = (out / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["n_prompts"] for line in lines] == [0, 2, 2, 4, 4, 6]
    # The same command measures what is there, and so does another one, whatever kind it names.
    params = (out / "params.pt").read_bytes()
    assert train_lens.main(jacobian_options) == 0
    assert (out / "params.pt").read_bytes() == params
    sizes = ["--sequence-length", "16", "--eval-tokens", "32"]
    assert train_lens.main(["--model", tiny_model, "--eval-only", str(out), "--out", "again", *sizes]) == 0
    again, other_provenance, recipe = read_metrics("again")
    assert (again, other_provenance.lens_sha256, recipe["kind"]) == (measured, provenance.lens_sha256, "jacobian")


def test_a_jacobian_fit_that_was_killed_or_stopped_ends_where_a_whole_one_does(
    jacobian_options: list[str], tmp_path: Path, forker: "Forker"
) -> None:
    options = [*jacobian_options, "--snapshot-minutes", "0"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert forker.run([*options, "--out", str(whole)])[0] == [0]
    to_broken = {"args": [*options, "--out", str(broken)], "log": broken / "log.jsonl"}
    # In the middle of the first batch, and in that of the second.
    assert forker.run(**to_broken, kill=signal.SIGKILL, after_lines=1)[0] == [-signal.SIGKILL]
    codes, output = forker.run(**to_broken, kill=signal.SIGTERM, after_lines=3)
    assert codes == [128 + signal.SIGTERM]
    assert "the same command resumes" in output
    codes, output = forker.run(to_broken["args"])
    assert codes == [0]
    assert "resuming after step" in output
    assert (broken / "params.pt").read_bytes() == (whole / "params.pt").read_bytes()
    assert (broken / "config.json").read_bytes() == (whole / "config.json").read_bytes()


def test_two_processes_fit_the_jacobian_lens_of_one(
    jacobian_options: list[str], tmp_path: Path, forker: "Forker"
) -> None:
    codes, output = forker.run([*jacobian_options, "--out", str(tmp_path / "two")], environments=two_processes())
    assert codes == [0, 0], output
    assert forker.run([*jacobian_options, "--out", str(tmp_path / "one")])[0] == [0]
    one, two = (torch.load(tmp_path / name / "params.pt", weights_only=True) for name in ("one", "two"))
    assert (two["n_prompts"], two["source_layers"]) == (one["n_prompts"], one["source_layers"])
    for layer, matrix in one["J"].items():
        torch.testing.assert_close(two["J"][layer].float(), matrix.float(), rtol=2e-3, atol=1e-4)


def test_a_recipe_file_gives_options_that_the_command_line_overrides(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('loss = "ce"\nsteps = 9\nsnapshot_minutes = 7\n')
    recipe = train_lens.parse(["--recipe", str(tmp_path / "recipe.toml"), *options])
    assert (recipe.loss, recipe.steps, recipe.snapshot_minutes) == ("ce", 6, 7.0)
    assert train_lens.parse([f"--recipe={tmp_path / 'recipe.toml'}"]).steps == 9


def test_training_on_text_measures_bits_per_byte_on_other_documents_and_eval_only_agrees(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["--model", str(text_model / "model"), "--data", str(text_model / "texts.jsonl"), *SIZES]
    assert train_lens.main([*common, "--out", "lens", "--eval-tokens", "400"]) == 0
    measured, provenance, _ = read_metrics("lens")
    assert measured.model_bits_per_byte is not None
    assert measured.n_documents > 2
    assert provenance.data_sha256
    assert provenance.tokenizer_sha256
    assert train_lens.main([*common, "--eval-only", "lens", "--eval-tokens", "400", "--out", "again"]) == 0
    again, other_provenance, _ = read_metrics("again")
    assert again == measured
    assert other_provenance.lens_sha256 == provenance.lens_sha256


def test_killed_at_three_random_moments_and_resumed_the_params_are_those_of_an_uninterrupted_run(
    options: list[str], tmp_path: Path, forker: "Forker"
) -> None:
    options = [*options, "--snapshot-minutes", "0", "--steps", "10"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert forker.run([*options, "--out", str(whole)])[0] == [0]
    for after_lines in (1, 3, 6):
        codes, _ = forker.run(
            [*options, "--out", str(broken)],
            kill=signal.SIGKILL,
            log=broken / "log.jsonl",
            after_lines=after_lines,
            delay_s=random.SystemRandom().uniform(0, 0.03),
        )
        assert codes == [-signal.SIGKILL]
    codes, output = forker.run([*options, "--out", str(broken)])
    assert codes == [0]
    assert "resuming after step" in output
    assert (broken / "params.pt").read_bytes() == (whole / "params.pt").read_bytes()
    logs = [[json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] for out in (whole, broken)]
    assert [line["step"] for line in logs[1]] == list(range(1, 11))
    assert [line["loss_nats"] for line in logs[1]] == [line["loss_nats"] for line in logs[0]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_makes_a_snapshot_from_which_the_same_command_resumes(
    options: list[str], tmp_path: Path, forker: "Forker", number: signal.Signals
) -> None:
    options = [*options, "--steps", "40"]
    out = tmp_path / "lens"
    codes, output = forker.run(options, kill=number, log=out / "log.jsonl", after_lines=2)
    assert codes == [128 + number]
    assert "the same command resumes" in output
    stopped = torch.load(out / "snapshot.pt", weights_only=True)["state"]["step"]
    assert 2 <= stopped < 40
    codes, output = forker.run(options, kill=number, log=out / "log.jsonl", after_lines=stopped + 1)
    assert f"resuming after step {stopped} of 40" in output


def test_two_processes_give_the_losses_and_translators_of_one(
    options: list[str], tmp_path: Path, forker: "Forker"
) -> None:
    codes, output = forker.run([*options, "--out", str(tmp_path / "two")], environments=two_processes())
    assert codes == [0, 0], output
    assert forker.run([*options, "--out", str(tmp_path / "one")])[0] == [0]
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert len(logs[1]) == 6
    for one, two in zip(*logs, strict=True):
        assert two["loss_nats"] == pytest.approx(one["loss_nats"], rel=1e-5)
        assert two["n_tokens"] == one["n_tokens"]
    one, two = (torch.load(tmp_path / name / "params.pt", weights_only=True) for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-6)


def test_a_signal_to_one_of_two_processes_stops_both_after_a_snapshot(
    options: list[str], tmp_path: Path, forker: "Forker"
) -> None:
    out = tmp_path / "lens"
    codes, output = forker.run(
        [*options, "--steps", "200"],
        environments=two_processes(),
        kill=signal.SIGTERM,
        log=out / "log.jsonl",
        after_lines=2,
    )
    assert codes[0] == 128 + signal.SIGTERM, output
    assert codes[1] == 128
    assert torch.load(out / "snapshot.pt", weights_only=True)["state"]["step"] >= 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--model", "no/such/model/folder"], "there is no folder 'no/such/model/folder'"),
        (["--model", "diff-mamba3"], "diff-mamba3"),
        (["--data", "builtin"], "holds no tokenizer: give --tokenizer"),
        (["--recipe", "none.toml"], "none.toml is no file: give the path of a recipe"),
        (["--recipe"], "--recipe needs the path of a TOML file"),
        (["--recipe", "a.toml", "--recipe", "b.toml"], "--recipe comes 2 times (a.toml, b.toml)"),
        (["--device", "cuda"], "no CUDA device"),
        (["--device", "gpu"], "device is 'gpu', which names none: give cpu, cuda"),
        (["--device", ""], "device is '', which names none"),
        (["--device", "meta"], "device is 'meta', which is none that this machine computes on"),
        (["--eval-only", "no/lens"], "no/lens"),
    ],
)
def test_bad_options_are_one_clear_line(
    options: list[str],
    changed: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert message in failure([*options, *changed], capsys)
    assert not (tmp_path / "lens").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no text"),
        ('{"text": 3}', "line 1"),
        ('{"text": "a few words"}', "too few to hold any out for measuring the lens: give more text"),
        ('{"text": "' + "a few words " * 8 + '"}', "fewer than one batch of 4"),
        ('{"text": null}', "line 1: the field 'text' holds null, not text: pass over such rows with skip_empty"),
        ("not json", "line 1 is not valid JSON"),
    ],
)
def test_unreadable_empty_or_short_data_is_one_clear_line(
    text_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text(content)
    args = ["--model", str(text_model / "model"), "--data", "bad.jsonl", "--out", "lens", *SIZES]
    assert message in failure(args, capsys)


def test_data_that_ends_keeps_a_snapshot_and_more_passes_go_on(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["--model", str(text_model / "model"), "--data", str(text_model / "texts.jsonl"), "--out", "lens", *SIZES]
    args += ["--tokens-per-step", "2048", "--max-passes", "1", "--max-documents", "40"]
    assert "the data ended after" in failure(args, capsys)
    assert Path("lens/snapshot.pt").is_file()
    assert train_lens.main([*args, "--max-passes", "9"]) == 0
    assert not Path("lens/snapshot.pt").exists()


def test_only_so_many_documents_are_read(text_model: Path) -> None:
    args = ["--model", str(text_model / "model"), "--data", str(text_model / "texts.jsonl"), "--max-documents", "3"]
    few = load_materials(train_lens.parse(args), torch.device("cpu"))
    assert few.source is not None
    assert len(list(few.source.documents())) == 3
    assert few.identity["data"] != load_materials(train_lens.parse(args[:-2]), torch.device("cpu")).identity["data"]


def test_reading_all_of_a_hub_dataset_is_announced(text_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    args = ["--model", str(text_model / "model"), "--data", "owner/dataset"]
    load_materials(train_lens.parse([*args, "--max-documents", "9"]), torch.device("cpu"))
    assert "--max-documents" not in caplog.text
    load_materials(train_lens.parse(args), torch.device("cpu"))
    assert "reading all of the hub dataset owner/dataset before training; --max-documents N" in caplog.text


def test_another_models_tokenizer_is_refused(
    options: list[str], text_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = failure([*options, "--tokenizer", str(text_model / "model")], capsys)
    assert "300 tokens" in message
    assert "vocabulary of 97" in message


def test_a_lens_measured_with_another_tokenizer_is_refused(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = HookedMamba.from_pretrained(text_model / "model")
    lens = TunedLens.from_model(model)
    from diffmamba_interp.lens import save_lens

    save_lens(lens, "lens", {"tokenizer_sha256": "0" * 64})
    args = ["--model", str(text_model / "model"), "--data", str(text_model / "texts.jsonl"), "--eval-only", "lens"]
    assert "another tokenizer" in failure([*args, *SIZES], capsys)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--stepps", "3"], "stepps"),
        (["--steps", "0"], "steps is 0: it must be positive"),
        (["--seed", str(10**30)], "seed is 1000"),
        (["--seed", "-1"], "seed is -1: it must lie in"),
        (["--snapshot-minutes", "nan"], "snapshot_minutes is nan: it must be a finite number"),
        (["--lr-scale", "inf"], "lr_scale is inf: it must be a finite number"),
        (["--sequence-length", "63", "--tokens-per-step", "64"], "no multiple of sequence_length 63"),
    ],
)
def test_unknown_options_and_impossible_values_are_refused(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = train_lens.main(args)
    except SystemExit as refusal:  # newer releases of tyro end the process themselves
        code = refusal.code
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_the_defaults_make_a_recipe_without_any_option() -> None:
    assert train_lens.parse([]) == train_lens.LensRecipe()


def test_progress_is_logged_without_a_traceback_when_the_disk_is_full(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffmamba_interp.runs import snapshots

    def no_space(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshots, "write_tensors", no_space)
    message = failure([*options, "--snapshot-minutes", "0"], capsys)
    assert "No space left" in message
    assert "resume" in message


def test_options_choose_column_split_and_revision_of_the_text(text_model: Path, tmp_path: Path) -> None:
    import datasets

    rows = [{"body": f"{i} rows of text"} for i in range(3)]
    parts = {name: datasets.Dataset.from_list([*rows, {"body": None}]) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    args = ["--model", str(text_model / "model"), "--data", str(tmp_path / "saved"), "--text-field", "body"]
    args += ["--hub-split", "test", "--skip-empty", "--max-unpacked-gb", "2"]
    source = load_materials(train_lens.parse(args), torch.device("cpu")).source
    assert source is not None
    assert [document.text for document in source.documents()] == [row["body"] for row in rows]
    assert source.max_unpacked_gb == 2
    hub = ["--data", "owner/name", "--hub-config", "c", "--hub-revision", "r", "--max-documents", "2"]
    source = load_materials(train_lens.parse([*args, *hub]), torch.device("cpu")).source
    assert source is not None
    assert (source.hub_config, source.hub_split, source.hub_revision) == ("c", "test", "r")


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recipe.toml").write_bytes(b"\xef\xbb\xbf" + b'data = "~/texts"\nmodel = "owner/model"\n')
    recipe = train_lens.parse(["--recipe", "~/recipe.toml", "--out=~/lens", "--tokenizer=~/t.json"])
    assert (recipe.data, recipe.out) == (str(tmp_path / "texts"), str(tmp_path / "lens"))
    assert (recipe.model, recipe.tokenizer) == ("owner/model", str(tmp_path / "t.json"))


def test_one_book_trains_and_measures_a_lens(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(" ".join(generated_documents(n_chars=20_000)))
    common = ["--model", str(text_model / "model"), "--data", "book.txt", *SIZES, "--eval-tokens", "400"]
    assert train_lens.main([*common, "--out", "lens"]) == 0
    measured, _, recipe = read_metrics("lens")
    assert recipe["split"] == "run"
    assert measured.n_documents > 3
    card = Path("lens/CARD.md").read_text()
    assert "book.txt, all but what was held out" in card
    assert f"predictions in {measured.n_documents} pieces of documents that were not trained on" in card
    # Measured again on the same text, the same part is held out; with other options another one would be.
    assert train_lens.main([*common, "--eval-only", "lens", "--out", "again"]) == 0
    assert read_metrics("again")[0] == measured
    message = failure([*common, "--eval-only", "lens", "--out", "other", "--seed", "1"], capsys)
    assert "was trained on this text with --seed 0" in message
    # What is held out cannot change under a run, as it may where hashes decide.
    assert "eval_tokens = 400" in failure([*common, "--out", "lens", "--eval-tokens", "500"], capsys)


def test_a_text_that_a_lens_was_not_trained_on_is_measured_on_as_a_whole(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["--model", str(text_model / "model"), *SIZES, "--eval-tokens", "9000"]
    assert train_lens.main([*common, "--data", str(text_model / "texts.jsonl"), "--out", "lens"]) == 0
    text = "A text of few words, measured whole."
    Path("other.txt").write_text(text)
    assert train_lens.main([*common, "--data", "other.txt", "--eval-only", "lens", "--out", "other"]) == 0
    measured, _, recipe = read_metrics("other")
    assert recipe["split"] == "whole"
    tokenizer = load_tokenizer(text_model / "model")
    assert measured.n_tokens == len(tokenizer(text)["input_ids"])
    Path("lens/metrics.json").unlink()
    assert train_lens.main([*common, "--data", "other.txt", "--eval-only", "lens", "--out", "unknown"]) == 0
    assert read_metrics("unknown")[0] == measured


def test_held_out_text_that_lacks_is_said_before_the_first_step(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(" ".join(generated_documents(n_chars=20_000)))
    args = ["--model", str(text_model / "model"), "--data", "book.txt", "--out", "lens", "--split", "hash", *SIZES]
    assert "--split run uses all of them" in failure(args, capsys)
    assert not Path("lens/log.jsonl").exists()


def test_a_text_may_begin_with_the_tokenizers_own_token(text_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    args = ["--model", str(text_model / "model"), "--data", str(text_model / "texts.jsonl")]
    with caplog.at_level("INFO"):
        load_materials(train_lens.parse(args), torch.device("cpu"))
        assert "every document begins" not in caplog.text
        load_materials(train_lens.parse([*args, "--bos", "always"]), torch.device("cpu"))
    assert "every document begins with <|endoftext|>, as bos = 'always' says; --bos never leaves it out" in caplog.text


@pytest.mark.parametrize("more", [[], ["--eval-only", "lens"]])
def test_a_folder_that_another_process_writes_is_refused_and_left_alone(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    with folder_lock(tmp_path / "lens"):
        assert "another process writes into" in failure([*options, *more], capsys)
        assert [file.name for file in (tmp_path / "lens").iterdir()] == [LOCK_FILE]


def test_all_processes_of_a_run_end_where_its_folder_is_written_by_another(
    options: list[str], tmp_path: Path, forker: "Forker"
) -> None:
    with folder_lock(tmp_path / "lens"):
        codes, output = forker.run(options, environments=two_processes())
    assert codes == [2, 2]
    assert f"another process writes into {tmp_path / 'lens'} (pid " in output


def test_a_reporter_that_cannot_start_is_one_clear_line(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class UsageError(Exception):
        pass

    def init(**_: Any) -> None:
        raise UsageError("api_key not configured (no-tty)")

    module = type(sys)("wandb")
    module.errors = type(sys)("wandb.errors")  # type: ignore[attr-defined]
    module.errors.Error = UsageError  # type: ignore[attr-defined]
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    message = failure([*options, "--report-to", "wandb"], capsys)
    assert "could not start (api_key not configured (no-tty)): log in with `wandb login`" in message


def test_a_log_with_damaged_lines_does_not_keep_a_run_from_going_on(options: list[str], tmp_path: Path) -> None:
    log = tmp_path / "lens" / "log.jsonl"
    log.parent.mkdir()
    log.write_bytes(b"\xff\xfe\n[1\n" + b"[" * 100_000 + b"\n")
    assert train_lens.main(options) == 0
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
