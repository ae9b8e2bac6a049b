"""Session files: what was looked at comes back whole, and a hostile or damaged file is refused with a reason."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from app.panels.kept_records import KeptRecord
from app.session_file import MAX_PACKED_BYTES, read_session, write_session
from app.session_records import KINDS, kind_of
from diffmamba_interp import DifferentialConfig
from diffmamba_interp.implicit_attention import extract_attention
from diffmamba_interp.lens import LogitLens, lens_trajectory
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
    ]


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
    attention, lens = session.records
    assert (attention.title, attention.model, attention.strings) == ("attention", "models/x", STRINGS)
    for name, value in kept[0].record.to_numpy().items():
        assert np.array_equal(attention.record.to_numpy()[name], value), name
    assert np.array_equal(lens.record.top_probabilities, kept[1].record.top_probabilities)
    assert lens.record.stages == kept[1].record.stages
    assert lens.words == kept[1].words


def test_every_record_can_be_drawn_without_its_model(content: bytes, kept: list[KeptRecord]) -> None:
    for again, before in zip(read_session(content).records, kept, strict=True):
        made, first = (KINDS[kind_of(one.record)].draw(one).data[0] for one in (again, before))
        assert np.array_equal(made.z, first.z)


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
