"""Session files: what was looked at comes back whole, and a hostile or damaged file is refused with a reason."""

import io
import json
import pickle
import re
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from app.pages_.session.file import MAX_PACKED_BYTES, read_session, write_session
from app.pages_.session.kinds import KINDS, figures_of, kind_of
from app.pages_.session.report import write_report
from app.shell.downloads import KeptRecord
from app.shell.kept_runs import HeadsRun, PatchingRun, ProbesRun, RetrievalRun
from app.shell.needle_runs import CurveSettings, NeedleReading, NeedleRun
from diffmamba_interp import DifferentialConfig
from diffmamba_interp.implicit_attention import ContributionGraph, contribution_graph, extract_attention
from diffmamba_interp.implicit_attention.allocation import CLASSES, DIRECTIONS, PICTURES, Allocation
from diffmamba_interp.interventions import FaithfulnessRecord, SetLambda, continuations
from diffmamba_interp.lens import LogitLens, lens_trajectory
from diffmamba_interp.needle import ProbeRecord
from diffmamba_interp.needle.records import ReadSample
from diffmamba_interp.needle.trajectory_records import NeedleTrajectory
from diffmamba_interp.stages import stage_names
from tests.app.test_headlines import cell, changed, grid, scores, without_subtraction
from tests.models.tiny import random_tokens, tiny_model

STRINGS = ("a", "<b>", "c", "d", "e", "f")
STATE = {"block": "2", "prompt": "the keys"}


@pytest.fixture(scope="module")
def kept() -> list[KeptRecord]:
    model = tiny_model(DifferentialConfig(placement=(0,)))
    tokens = random_tokens(1, 6)
    facts = {"model": "models/x", "dtype": "float32", "device": "cpu", "strings": STRINGS}
    attention = extract_attention(model, tokens, 0, reduce="mean", token_strings=list(STRINGS))
    lens = lens_trajectory(model, LogitLens.from_model(model), tokens, targets=tokens)
    words = {int(token): f"word {token}" for token in lens.top_tokens.flat}
    return [
        KeptRecord(title="attention", record=attention, **facts),
        KeptRecord(title="lens", record=lens, words=words, **facts),
        KeptRecord(title="needle", record=needle_run(), **facts | {"strings": ()}),
    ]


def needle_run(n_prompts: int = 3, *, log: bool = False) -> NeedleRun:
    """Two models of two blocks; numbers at random."""
    random = np.random.default_rng(0)
    samples = tuple(
        ReadSample(
            id=f"{k}", task="qa1", length=0, depth=(0.5, 0.7), needle_depth=0.5, seed=0, n_tokens=9,
            labels=("hall", "<b>garden"), answer="hall", n_label_tokens=(1, 2),
        )
        for k in range(n_prompts)
    )  # fmt: skip
    curves = (1, n_prompts, 3)
    blocks = (n_prompts, len(DIRECTIONS), 2)
    found = [
        NeedleReading(
            trajectory=NeedleTrajectory(
                model=name, lenses=("logit",), stages=stage_names(2), samples=samples,
                log_probs=-random.random((*curves, 2)).astype(np.float32),
                token_ranks=np.ones((*curves, 2), np.float32),
                entropy_nats=random.random(curves).astype(np.float32), kl_to_final_nats=np.zeros(curves, np.float32),
            ),
            allocation=Allocation(
                mass=torch.rand(*blocks, len(PICTURES), len(CLASSES)), smaller=torch.rand(*blocks, len(CLASSES)),
                snr_db=torch.rand(*blocks, len(PICTURES)), cosine=torch.rand(blocks),
                n_sources=torch.ones(n_prompts, len(CLASSES), dtype=torch.long),
            ),
        )
        for name in ("one", "<i>two")
    ]  # fmt: skip
    return NeedleRun(readings=tuple(found), drawing=CurveSettings(measure="probability", statistic="median", log=log))


@pytest.fixture
def content(kept: list[KeptRecord]) -> bytes:
    return write_session("lens", STATE, kept)


def rewritten(content: bytes, **files: bytes | None) -> bytes:
    """The archive with some of its files replaced; "manifest" is session.json, "record" the first record."""
    names = {"manifest": "session.json", "record": "records/00.npz"}
    new = {names.get(name, name): value for name, value in files.items()}
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        for name in [*old.namelist(), *(name for name in new if name not in old.namelist())]:
            value = new[name] if name in new else old.read(name)
            if value is not None:
                made.writestr(name, value)
    return packed.getvalue()


def manifest(content: bytes, **changes: object) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return json.dumps(json.loads(archive.read("session.json")) | changes).encode()


def test_what_was_written_is_read_back(kept: list[KeptRecord], content: bytes) -> None:
    session = read_session(content)
    assert (session.page, session.state) == ("lens", STATE)
    attention, lens, needle = session.records
    assert (attention.title, attention.model, attention.strings) == ("attention", "models/x", STRINGS)
    for name, value in kept[0].record.to_numpy().items():
        assert np.array_equal(attention.record.to_numpy()[name], value), name
    assert np.array_equal(lens.record.top_probabilities, kept[1].record.top_probabilities)
    assert lens.record.stages == kept[1].record.stages
    assert lens.words == kept[1].words
    assert needle.record.drawing == kept[2].record.drawing
    for again, before in zip(needle.record.readings, kept[2].record.readings, strict=True):
        for name in ("model", "lenses", "stages", "samples"):
            assert getattr(again.trajectory, name) == getattr(before.trajectory, name)
        assert np.array_equal(again.trajectory.log_probs, before.trajectory.log_probs)
        assert all(torch.equal(getattr(again.allocation, name), value)
                   for name, value in vars(before.allocation).items() if value is not None)  # fmt: skip


def test_every_record_can_be_drawn_without_its_model(content: bytes, kept: list[KeptRecord]) -> None:
    for again, before in zip(read_session(content).records, kept, strict=True):
        made, first = (figures_of(one) for one in (again, before))
        assert [figure.to_json() for figure in made] == [figure.to_json() for figure in first]
        assert len(made) == (5 if again.title == "needle" else 1)
        assert "<i>two" not in made[0].to_json()


def changed_needle(content: bytes, about: dict[str, object], **arrays: np.ndarray | None) -> bytes:
    """The archive with some of what its needle record says replaced."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive, np.load(io.BytesIO(archive.read("records/02.npz"))) as file:
        old = dict(file)
    said = json.loads(str(old.pop("about"))) | about
    new = {name: value for name, value in (old | arrays).items() if value is not None}
    made = io.BytesIO()
    np.savez(made, about=np.array(json.dumps(said)), **new)
    return rewritten(content, **{"records/02.npz": made.getvalue()})


def said_of_needle(content: bytes) -> dict[str, list]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive, np.load(io.BytesIO(archive.read("records/02.npz"))) as file:
        return json.loads(str(file["about"]))


@pytest.mark.parametrize(
    ("of_sample", "words"),
    [
        ({"labels": ["hall"]}, "at least two"),
        ({"answer": "office"}, "at least two labels"),
        ({"n_label_tokens": [0, 2]}, "without tokens"),
        ({"labels": ["hall", "x" * 5000]}, "up to 1,000 characters"),
        ({"labels": "hall"}, "not a list"),
        ({"n_tokens": "many"}, "not a whole number"),
        ({"depth": ["deep"]}, "not a number"),
        ({"evil": 1}, "not all"),
    ],
)
def test_a_needle_record_of_prompts_that_are_none_is_refused(
    content: bytes, of_sample: dict[str, object], words: str
) -> None:
    samples = said_of_needle(content)["samples"]
    with pytest.raises(ValueError, match=words):
        read_session(changed_needle(content, {"samples": [samples[0] | of_sample, *samples[1:]]}))


@pytest.mark.parametrize(
    ("about", "arrays", "words"),
    [
        ({"samples": []}, {}, "list of 1 to"),
        ({"samples": [{}] * 5000}, {}, "list of 1 to"),
        ({"models": [{}] * 3}, {}, "list of 1 to 2"),
        ({"drawing": {"measure": "evil", "statistic": "mean", "log": False}}, {}, "drawing that there is not"),
        ({"drawing": {"evil": 1}}, {}, "no session file"),
        ({}, {"0.log_probs": np.zeros((1, 3, 3, 9), np.float32)}, "not of one piece"),
        ({}, {"0.log_probs": np.zeros((1, 3, 3, 2), np.complex64)}, "not of one piece"),
        ({}, {"1.allocation.cosine": np.zeros(3)}, "not of one piece"),
        ({}, {"1.allocation.cosine": None}, "no session file"),
        ({}, {"0.entropy_nats": None}, "no session file"),
    ],
)
def test_a_needle_record_whose_parts_do_not_fit_together_is_refused(
    content: bytes, about: dict[str, object], arrays: dict[str, np.ndarray | None], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        read_session(changed_needle(content, about, **arrays))


def test_a_pickle_in_an_array_is_not_opened(content: bytes) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("the pickle was opened",))

    arrays = io.BytesIO()
    np.savez(arrays, values=np.array([Harm()], dtype=object))
    with pytest.raises(ValueError, match="no attention record"):
        read_session(rewritten(content, record=arrays.getvalue()))
    with pytest.raises(ValueError, match="no session file"):
        read_session(pickle.dumps(Harm()))


@pytest.mark.parametrize("damage", [b"", b"no archive", b"PK\x03\x04" + b"\0" * 60])
def test_what_is_no_archive_is_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match="no session file"):
        read_session(damage)


def test_a_file_cut_short_or_with_a_bit_turned_is_refused(content: bytes) -> None:
    turned = bytearray(content)
    turned[len(content) // 2] ^= 255
    for damaged in (content[: len(content) // 2], bytes(turned)):
        with pytest.raises(ValueError, match="session file"):
            read_session(damaged)


@pytest.mark.parametrize("name", ["../outside.npz", "/etc/passwd", "records/../../x.npz", "model.pkl"])
def test_a_file_of_another_name_is_refused(content: bytes, name: str) -> None:
    with pytest.raises(ValueError, match="no session file"):
        read_session(rewritten(content, **{name: b"x"}))


def test_what_would_unpack_to_too_much_is_refused_before_it_is_unpacked(content: bytes) -> None:
    with pytest.raises(ValueError, match="would unpack"):
        read_session(rewritten(content, manifest=b" " * (17 * 2**20)))
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        for _ in range(33):
            file.write(b"\0" * 2**24)
    with pytest.raises(ValueError, match="would unpack"):
        read_session(rewritten(content, record=bomb.getvalue()))
    with pytest.raises(ValueError, match="at most"):
        read_session(b"x" * (MAX_PACKED_BYTES + 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other/1"},
        {"state": {"block": 3}},
        {"state": ["block"]},
        {"page": None},
        {"records": [{"kind": "attention"}]},
        {"records": [{"kind": "evil", "file": "records/00.npz"}]},
        {"records": "none"},
        {"records": [{"kind": "attention", "file": "records/99.npz", "strings": []}]},
    ],
)
def test_a_list_of_contents_that_is_none_is_refused(content: bytes, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="session file"):
        read_session(rewritten(content, manifest=manifest(content, **changes)))


def test_a_record_whose_arrays_do_not_fit_together_is_refused(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive, np.load(io.BytesIO(archive.read("records/00.npz"))) as file:
        arrays = dict(file)
    arrays["part_0"] = arrays["part_0"][:, :3]
    changed = io.BytesIO()
    np.savez(changed, **arrays)
    with pytest.raises(ValueError, match="not of one piece"):
        read_session(rewritten(content, record=changed.getvalue()))


def test_the_server_takes_files_as_large_as_the_reader_does(project_root: Path) -> None:
    settings = tomllib.loads((project_root / "app" / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    assert settings["server"]["maxUploadSize"] * 2**20 == MAX_PACKED_BYTES


def json_records() -> dict[str, object]:
    """One of each kind that goes to JSON; numbers at random."""
    intervention = changed(1.0, 0.25, ({"kind": "SetLambda", "value": 0.0, "blocks": [0, 2]},))
    through_lens = {"tuned.answer_log_probability": -np.ones((1, 2)), "answer_log_probability": -np.ones(1)}
    one = grid(2.0, [[0.0, 0.1], [1.0, 0.2]])
    run = needle_run(12)
    samples = run.readings[0].trajectory.samples
    numbers = np.random.default_rng(0).random((12, 3))
    probes = [
        ProbeRecord(
            model=name, stages=stage_names(2), samples=samples, stories=np.arange(12), is_right=numbers > 0.3,
            bits=numbers, shuffled_right=numbers > 0.9, shuffled_bits=-numbers, l2=numbers, n_folds=2, seed=0,
        )
        for name in ("bundled:mamba2", "<i>x")
    ]  # fmt: skip
    tiny = tiny_model(DifferentialConfig(placement=(0,)))
    return {
        "continuations": continuations(tiny, random_tokens(1, 5), {"as it is": (), "<b>": SetLambda(value=0.0)}, 3),
        "intervention": replace(
            intervention,
            clean={**intervention.clean, **through_lens}, intervened={**intervention.intervened, **through_lens},
        ),
        "sweep": without_subtraction(1.0, 0.01, 0.1, 0.9),
        "patching": PatchingRun(exact=one, estimate=replace(one, estimated=True), places=("0 <b>a", "1 b")),
        "faithfulness": FaithfulnessRecord(
            reading="label_probability", unit="probability", rankings=("contribution", "random", "recency"),
            fractions=(0.0, 0.5, 1.0), level="write", n_sources=(4,),
            deletion=np.array([[[1.0, 0.1, 0.0], [1.0, 0.5, 0.0], [1.0, 0.6, 0.0]]]),
            insertion=np.array([[[0.0, 0.9, 1.0], [0.0, 0.5, 1.0], [0.0, 0.4, 1.0]]]),
        ),
        "heads": HeadsRun(scores=scores([0.1, 0.8, 0.2, 0.2], 0.15), measure="aggregate"),
        "retrieval": RetrievalRun(cells=(cell(0, 0.1), cell(1024, -0.1))),
        "probes": ProbesRun(records=tuple(probes)),
    }  # fmt: skip


def small_graph() -> ContributionGraph:
    return contribution_graph(tiny_model(DifferentialConfig(placement=(0,))), random_tokens(1, 6), 3, versus=4)


@pytest.mark.parametrize(
    "changes",
    [{"bias": torch.zeros(1, 2, 5)}, {"kinds": ("plain", "plain", "plain")}, {"position": torch.tensor([6])}],
)
def test_a_graph_whose_parts_do_not_fit_together_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not of one piece"):
        KINDS["graph"].read(KINDS["graph"].write(SimpleNamespace(**{**vars(small_graph()), **changes})))


@pytest.fixture(scope="module")
def every(kept: list[KeptRecord]) -> list[KeptRecord]:
    facts = {"model": "<script>alert(1)</script>", "dtype": "float32", "device": "cpu", "strings": STRINGS}
    graph = KeptRecord(title="graph", record=small_graph(), **facts)
    return [*kept, graph, *(KeptRecord(title=kind, record=record, **facts) for kind, record in json_records().items())]


def test_every_kind_of_record_comes_back_and_is_drawn_and_told_alike(every: list[KeptRecord]) -> None:
    assert {kind_of(one.record) for one in every} == set(KINDS)
    for again, before in zip(read_session(write_session("lens", STATE, every)).records, every, strict=True):
        kind = KINDS[kind_of(before.record)]
        assert kind_of(again.record) == kind_of(before.record)
        if kind.ending == "json":
            assert kind.write(again.record) == kind.write(before.record), before.title
        assert kind.tell(again) == kind.tell(before)
        assert kind.lines(again.record) == kind.lines(before.record)
        assert kind.drawings(again)
    lines = KINDS["intervention"].lines(json_records()["intervention"])
    assert lines[0] == "λ set to 0 in blocks 0, 2"
    assert "0.25" in lines[1]


def test_the_report_is_one_page_without_scripts_in_which_all_text_is_escaped(every: list[KeptRecord]) -> None:
    page = write_report({"prompt": "<img src=x>"}, every).decode()
    assert page.count("<section><h2>") == len(every)
    assert page.count("<svg") == sum(len(KINDS[kind_of(one.record)].drawings(one)) for one in every)
    for harm in ("<script", "<img", "<i>", "<b>a", "href="):
        assert harm not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "default-src 'none'" in page
    widths = [float(width) for width in re.findall(r"<figure style=.max-width:(\d+)px", page)]
    assert len(widths) == page.count("<svg")
    assert all(200 < width < 4000 for width in widths)
    assert "The change (λ set to 0 in blocks 0, 2) lowers the answer&#x27;s probability from 1.00 to 0.25" in re.sub(
        r"</?abbr[^>]*>", "", page
    )


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("intervention", {"intervened": {}}),
        ("sweep", {"doses": []}),
        ("patching", {"places": ["0"]}),
        ("faithfulness", {"rankings": ["random"]}),
        ("heads", {"measure": "evil"}),
        ("retrieval", {"cells": []}),
        ("probes", {"records": []}),
        ("heads", {"evil": 1}),
        ("sweep", {"clean": 3}),
    ],
)
def test_a_json_record_whose_parts_do_not_fit_together_is_refused(kind: str, changes: dict[str, object]) -> None:
    facts = {"model": "x", "dtype": "float32", "device": "cpu", "strings": STRINGS}
    content = write_session("lens", STATE, [KeptRecord(title=kind, record=json_records()[kind], **facts)])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        values = json.loads(archive.read("records/00.json")) | changes
    with pytest.raises(ValueError, match="session file"):
        read_session(rewritten(content, **{"records/00.json": json.dumps(values).encode()}))


@pytest.mark.parametrize(
    "entry", [{"view": "evil"}, {"spans": {"needle": [[0, 99]]}}, {"spans": {"needle": [[3, 1]]}}, {"spans": [1]}]
)
def test_a_view_or_spans_that_cannot_be_are_refused(content: bytes, entry: dict[str, object]) -> None:
    entries = json.loads(manifest(content))["records"]
    with pytest.raises(ValueError, match="session file|positions|half-open"):
        read_session(rewritten(content, manifest=manifest(content, records=[entries[0] | entry, *entries[1:]])))
