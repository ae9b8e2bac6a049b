"""`python -m diffmamba_interp.train_lm`, from recipe to finished folder, through kills, signals and bad input."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from diffmamba_interp import HookedMamba, train_lm
from diffmamba_interp.commands import lm_run
from diffmamba_interp.files import atomic, locks
from diffmamba_interp.files.locks import LOCK_FILE, folder_lock
from diffmamba_interp.lm_training.loop import Trainer
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.lm_training.snapshots import read_snapshot
from diffmamba_interp.models.checkpoints import load_model
from diffmamba_interp.runs.command import program
from diffmamba_interp.runs.process_group import ProcessGroup
from diffmamba_interp.runs.settings import read_toml
from diffmamba_interp.text import Document, save_tokenizer, train_tokenizer, write_tokens
from diffmamba_interp.text.generated_text import generated_documents
from tests.cli.conftest import FORKER, Forker

RECIPE = """
steps = 6
batch_size = 4
log_every = 1

[model.config]
d_model = 16
n_layers = 2
d_vocab = 300
d_state = 4
d_head = 8

[model.config.differential]
placement = "alternate"

[data]
tokenizer = "tokenizer"
length = 24

[[data.text]]
tokens = "train.npy"
weight = 1.0

[optimiser]
lr = 3e-3
warmup = 2

[evaluation]
every = 4
text = ["eval.npy"]
max_tokens = 200
n = 0
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe and everything that it names."""
    folder = tmp_path_factory.mktemp("material")
    texts = list(generated_documents(n_chars=25_000, seed=1))
    tokenizer = train_tokenizer(texts, vocab_size=300)
    save_tokenizer(tokenizer, folder / "tokenizer")
    for name, chosen in (("train", texts[1:]), ("eval", texts[:1])):
        write_tokens([Document(text, name) for text in chosen], tokenizer, folder / f"{name}.npy")
    lines = [json.dumps({"text": f"{i} {text[i : i + 300]}"}) for text in texts for i in range(0, len(text), 300)]
    (folder / "texts.jsonl").write_text("\n".join(lines))
    (folder / "tiny.toml").write_text(RECIPE)
    return folder


@pytest.fixture
def options(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a run into tmp_path/run; paths in the recipe are seen from its own folder."""
    monkeypatch.chdir(material)
    return ["--recipe", "tiny.toml", "--out", str(tmp_path / "run"), "--no-progress", "--device", "cpu"]


@pytest.fixture(scope="module")
def forker(material: Path, project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    """Runs the command in forks of one warm process, in the folder of the material."""
    environment = os.environ | {"PYTHONPATH": str(project_root), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", FORKER.replace("train_lens", "train_lm")],
        cwd=material,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Forker(process, tmp_path_factory.mktemp("forker"))
        assert process.stdin is not None
        process.stdin.close()


def two_processes() -> tuple[dict[str, str], ...]:
    """The environments that torchrun gives to two processes of one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return tuple(common | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1"))


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def failure(args: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    assert train_lm.main(args) == code
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return printed.strip().splitlines()[-1]


def test_a_run_leaves_a_complete_folder(options: list[str], material: Path, tmp_path: Path) -> None:
    assert train_lm.main([*options, "--steps", "5", "--optimiser.lr", "1e-3"]) == 0
    run = tmp_path / "run"
    names = {"recipe.toml", "log.jsonl", "snapshot.pt", "model", "model-bf16", "results.json"}
    assert {path.name for path in run.iterdir()} == names
    resolved, given = read_toml(Recipe, run / "recipe.toml"), read_toml(Recipe, material / "tiny.toml")
    assert (resolved.steps, resolved.optimiser.lr) == (5, 1e-3)
    assert resolved.model == given.model
    results = json.loads((run / "results.json").read_text())
    assert (results["step"], results["is_complete"], results["tokens"]) == (5, True, 5 * 4 * 24)
    assert set(results["data_sha256"]) == {"train.npy", "tokenizer"}
    assert set(results["metrics"]) == {"bits_per_byte/eval.npy"}
    assert results["n_parameters"] == sum(parameter.numel() for parameter in load_model(run / "model").parameters())


def test_a_finished_run_started_again_changes_nothing(options: list[str], tmp_path: Path) -> None:
    assert train_lm.main(options) == 0
    files = ("model/model.safetensors", "log.jsonl", "results.json", "recipe.toml")
    before = [(tmp_path / "run" / name).read_bytes() for name in files]
    assert train_lm.main(options) == 0
    assert [(tmp_path / "run" / name).read_bytes() for name in files] == before


def test_killed_at_random_moments_and_resumed_the_weights_are_those_of_an_uninterrupted_run(
    options: list[str], tmp_path: Path, forker: Forker
) -> None:
    options = [*options, "--steps", "12", "--snapshot-every", "1"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert forker.run([*options, "--out", str(whole)])[0] == [0]
    for after_lines in (1, 4, 7):
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
    assert "continuing" in output
    for name in ("model/model.safetensors", "model-bf16/model.safetensors"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    logs = [[(record["step"], record.get("loss")) for record in log(folder)] for folder in (whole, broken)]
    assert logs[0] == logs[1]
    assert {path.name for path in broken.iterdir()} == {path.name for path in whole.iterdir()}


def test_two_processes_equal_one_at_the_same_global_batch(options: list[str], tmp_path: Path, forker: Forker) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    codes, output = forker.run([*options, "--out", str(two)], environments=two_processes())
    assert codes == [0, 0], output
    assert forker.run([*options, "--out", str(one)])[0] == [0]
    for alone, shared in zip(log(one), log(two), strict=True):
        assert shared.keys() == alone.keys()
        for name in shared.keys() & {"loss", "text_loss", "gradient_norm", "bits_per_byte/eval.npy"}:
            assert shared[name] == pytest.approx(alone[name], rel=1e-4)
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=2e-5, msg=name)


def test_a_signal_to_one_of_two_processes_stops_both_after_a_snapshot(
    options: list[str], tmp_path: Path, forker: Forker
) -> None:
    run = tmp_path / "run"
    codes, output = forker.run(
        [*options, "--steps", "3000"],
        environments=two_processes(),
        kill=signal.SIGTERM,
        log=run / "log.jsonl",
        after_lines=2,
    )
    assert codes == [128 + signal.SIGTERM, 128], output
    snapshot = read_snapshot(run)
    assert snapshot is not None
    assert 2 <= snapshot.step < 3000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_signal_ends_the_run_after_the_step_at_hand_and_the_same_command_resumes(
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    workers: str,
) -> None:
    usual = Trainer.train_step

    def interrupted(self: Trainer, *arguments: Any) -> Any:
        if self.step == 2:
            signal.raise_signal(number)
        return usual(self, *arguments)

    options = [*options, "--workers", workers]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        assert train_lm.main(options) == 128 + number
    snapshot = read_snapshot(tmp_path / "run")
    assert snapshot is not None
    assert snapshot.step == 3
    assert not (tmp_path / "run" / "results.json").exists()
    assert train_lm.main(options) == 0
    assert [record["step"] for record in log(tmp_path / "run") if "loss" in record] == [1, 2, 3, 4, 5, 6]


def test_out_of_minutes_is_said_by_the_exit_code_and_leaves_a_usable_model(options: list[str], tmp_path: Path) -> None:
    assert train_lm.main([*options, "--max-minutes", "0"]) == 3
    assert load_model(tmp_path / "run" / "model").cfg.differential_blocks == (0,)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["step"], results["is_complete"]) == (1, False)


def test_divergence_is_one_clear_line(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda *args: tuple(value * torch.nan for value in usual(*args)))
    assert "step 1: the loss is nan" in failure(options, capsys, code=1)


def test_resuming_under_another_recipe_or_on_other_data_is_refused(
    options: list[str], material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        (material / "tiny.toml").read_text().replace('tokens = "train.npy"', 'source = "changing.jsonl"\ncache = "c"')
    )
    (material / "source.toml").write_text(text)
    (material / "changing.jsonl").write_text((material / "texts.jsonl").read_text())
    options = ["--recipe", "source.toml", *options[2:], "--max-minutes", "0"]
    assert train_lm.main(options) == 3
    assert "optimiser.lr was 0.003, is 0.01" in failure([*options, "--optimiser.lr", "0.01"], capsys)
    (material / "changing.jsonl").write_text('{"text": "another"}\n' + (material / "texts.jsonl").read_text())
    assert "other data: changing.jsonl changed since" in failure(options, capsys)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--recipe", "none.toml"], "--recipe comes 2 times (tiny.toml, none.toml): give one"),
        (["--recipe"], "--recipe needs the path of a TOML file"),
        (["--data.tokenizer", "no/such/folder/here"], "tokenizer 'no/such/folder/here'"),
        (
            ["--model.config.d-vocab", "299"],
            "has 300 tokens, the model's vocabulary (d_vocab, less its padding) only 299",
        ),
        (["--data.text.0.tokens", "none.npy"], "none.npy does not exist"),
        (["--data.text.0.tokens", "tiny.toml"], "tiny.toml is no token stream"),
        (["--data.length", "100000"], "too few for one row of 100000 + 1"),
        (["--evaluation.text", "none.npy"], "none.npy does not exist"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--device", "gpu"], "device is 'gpu', which names none: give cpu, cuda"),
        (["--device", ""], "device is '', which names none: give cpu, cuda"),
        (["--device", "meta"], "device is 'meta', which is none that this machine computes on"),
        (["--device", "cuda:99"], "device is 'cuda:99'"),
        (["--out", "tiny.toml"], "tiny.toml is there already, and is not a folder. Move it away, or choose another"),
        (["--out", "tiny.toml/run"], "tiny.toml/run leads through a file"),
        (["--seed", str(10**30)], "seed is 1000"),
        (["--seed", "-1"], "seed is -1: it must lie in [0, 2^32)"),
        (["--model.config.d-model", str(10**9)], "not enough memory"),
    ],
)
def test_bad_options_are_one_clear_line_and_leave_no_folder(
    options: list[str], changed: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert message in failure([*options, *changed], capsys)
    assert not (tmp_path / "run").exists()


def test_more_processes_than_rows_are_refused(options: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size 4 leaves some of 5 processes without a row"):
        lm_run.train(train_lm.parse_options(options).settings, tmp_path / "run", ProcessGroup(size=5))


def test_unknown_options_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        train_lm.main([*options, "--stepps", "3"])
    assert refusal.value.code == 2
    assert "stepps" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refusal:
        train_lm.main([*options, "--optimiser.weight-decay", "nan"])
    assert refusal.value.code == 2
    assert "weight_decay is nan: it must be a finite" in capsys.readouterr().err


def test_without_a_recipe_the_command_asks_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert f"give a recipe: {program('train-lm')} --recipe FILE.toml" in failure([], capsys)


def test_help_describes_the_command_and_with_a_recipe_its_fields(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        train_lm.main(["--help"])
    assert done.value.code == 0
    assert "--recipe FILE.toml" in capsys.readouterr().out
    with pytest.raises(SystemExit) as done:
        train_lm.main([*options[:2], "--help"])
    assert done.value.code == 0
    listed = capsys.readouterr().out
    for name in ("--out", "--steps", "--optimiser.lr", "--data.text.0.weight", "--evaluation.every"):
        assert name in listed


def test_a_placement_of_a_recipe_can_be_switched_off(project_root: Path) -> None:
    path = str(project_root / "recipes" / "paper_a31_pg19.toml")
    assert train_lm.parse_options(["--recipe", path]).settings.model.placement == "quarter"
    plain = train_lm.parse_options(["--recipe", path, "--model.placement", "None"])
    assert plain.settings.model.placement is None


def test_the_home_folder_is_meant_by_a_tilde(
    options: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    parsed = train_lm.parse_options([*options, "--out=~/run", "--data.tokenizer=~/words"])
    assert parsed.settings.data.tokenizer == str(tmp_path / "home" / "words")
    assert train_lm._run_folder(parsed) == tmp_path / "home" / "run"


def test_a_folder_that_another_process_writes_is_refused_and_left_alone(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with folder_lock(tmp_path / "run"):
        assert "another process writes into" in failure(options, capsys)
        assert [file.name for file in (tmp_path / "run").iterdir()] == [LOCK_FILE]


def test_a_full_disk_is_named_with_the_file_and_what_to_do(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", no_space)
        message = failure(options, capsys)
    assert message.startswith(f"error: no space is left on the disk of {tmp_path / 'run' / 'recipe.toml'}. Make room")

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("IoError: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(HookedMamba, "save_pretrained", full)
        message = failure(options, capsys)
    assert f"{tmp_path / 'run' / 'model'} could not be written (IoError: No space left on device): make room" in message
    assert train_lm.main(options) == 0


def test_a_folder_without_permission_is_named(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "run" / LOCK_FILE))

    monkeypatch.setattr(locks.os, "open", refused)
    assert f"no permission for {tmp_path / 'run'}. Change its permissions" in failure(options, capsys)


def test_a_damaged_snapshot_is_refused_with_what_to_do(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_lm.main(options) == 0
    file = tmp_path / "run" / "snapshot.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert failure(options, capsys).endswith("(their sha256 differs). Delete it to start anew.")
