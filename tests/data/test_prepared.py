import json
import pickle
import shutil

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from speechdst.data import preparation
from speechdst.data.dialogue import BadInput, to_bytes
from speechdst.data.options import Options
from speechdst.data.prepared import Prepared


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """7 + 2 simulated dialogues, text only, 3 to a shard."""
    folder = tmp_path_factory.mktemp("data")
    splits = {"train": {"dialogues": 7}, "test": {"dialogues": 2}}
    options = Options.parse("s", {"corpus": "simulated", "splits": splits, "speech": "none"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "SHARD", 3)
        preparation.prepare("s", options, folder, processes=0)
    return folder / "s"


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "s")


def test_random_access(made):
    dialogues = Prepared(made).dialogues("train")
    assert len(dialogues) == 7
    ids = [d.id for d in dialogues]
    assert ids == [f"train-0-{i:05d}" for i in range(7)]
    assert [dialogues[i].id for i in (6, 0, 3, -1)] == [ids[i] for i in (6, 0, 3, -1)]
    assert [d.id for d in dialogues[2:4]] == ids[2:4]
    assert dialogues[np.int64(2)].id == ids[2]
    for outside in (7, -8):
        with pytest.raises(IndexError):
            dialogues[outside]


def test_dialogues_may_be_pickled_before_and_after_reading(made):
    dialogues = Prepared(made).dialogues("train")
    for _ in range(2):
        copy = pickle.loads(pickle.dumps(dialogues))
        assert to_bytes(copy[4]) == to_bytes(dialogues[4])
        assert repr(copy) == repr(dialogues)


def test_repr_names_the_content_and_not_the_folder(made, folder):
    assert repr(Prepared(made).dialogues("train")) == repr(Prepared(folder).dialogues("train"))
    assert repr(Prepared(made).dialogues("train")) != repr(Prepared(made).dialogues("test"))


def test_manifest_schema_and_ontology(made):
    prepared = Prepared(made)
    assert prepared.splits == ("train", "test")
    both, test = prepared.ontology(), prepared.ontology("test")
    assert both and set(both) <= set(prepared.schema)
    for domain, slots in test.items():
        for slot, values in slots.items():
            assert slot in prepared.schema[domain] and set(values) <= set(both[domain][slot])
    for ask in (prepared.ontology, prepared.dialogues):
        with pytest.raises(BadInput, match="no split 'dev', there are train, test"):
            ask("dev")


def test_loads_through_grain_in_threads(made):
    import grain

    dialogues = Prepared(made).dialogues("train")
    stream = grain.MapDataset.source(dialogues).shuffle(seed=1).map(lambda d: d.id)
    options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)
    assert sorted(stream.to_iter_dataset(options)) == [d.id for d in dialogues]


def shard(folder, number=1):
    return sorted(folder.glob("train-*.arrayrecord"))[number]


def read(folder):
    return Prepared(folder).dialogues("train")[0]


def test_missing_folder(tmp_path):
    with pytest.raises(BadInput, match=r"none/manifest.json: no prepared data set.*speechdst.prep"):
        Prepared(tmp_path / "none")


def test_missing_shard(folder):
    shard(folder).unlink()
    with pytest.raises(BadInput, match=r"train-00001-of-00003.*missing.*--overwrite"):
        read(folder)


def test_shard_cut_off(folder):
    path = shard(folder)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BadInput, match=r"train-00001-of-00003.*cut off"):
        read(folder)


def test_shard_of_the_right_length_that_is_no_shard(folder):
    path = shard(folder)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(BadInput, match=r"train-00001-of-00003.*not an ArrayRecord"):
        read(folder)


def test_shard_with_other_records(folder):
    path = shard(folder)
    writer = ArrayRecordWriter(str(path), "group_size:1")
    writer.write(b"x")
    writer.close()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][1]["bytes"] = path.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match=r"train-00001.*1 records, the manifest says 3"):
        read(folder)


def test_foreign_record(folder):
    path = shard(folder)
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for _ in range(3):
        writer.write(b"not a dialogue")
    writer.close()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][1]["bytes"] = path.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    dialogues = Prepared(folder).dialogues("train")
    assert dialogues[0].id
    with pytest.raises(BadInput, match="not a dialogue record"):
        dialogues[3]


def test_verify_compares_checksums(folder):
    Prepared(folder).verify()
    path = shard(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"train-00001.*checksum"):
        Prepared(folder).verify()


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not the manifest"), ("[]", "not the manifest"), ("{}", "not the manifest"),
     ('{"format": 99}', "format 99, this version reads format 1")],
)  # fmt: skip
def test_manifest_that_cannot_be_used(folder, text, message):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BadInput, match=message) as error:
        Prepared(folder)
    assert "--overwrite" in str(error.value)
