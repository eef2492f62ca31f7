import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxfc.calls.schema import AcceptedCall, Tool
from jaxfc.command import InputError
from jaxfc.data.dataset import MANIFEST, open_split, read_manifest
from jaxfc.data.example import Example
from jaxfc.data.shards import DatasetWriter, finish_dataset, new_dataset, write_dataset
from jaxfc.data.wire import FEATURE, from_record, to_record


def example(number):
    schema = {"type": "string", "description": "Größe – 大きさ"}
    return Example(
        id=f"e-{number}",
        messages=({"role": "user", "content": f"Frage {number}: 'ñ' \\ \"\n"},),
        tools=(Tool("f", "", {"a": schema}, ("a",)),),
        accepted=(AcceptedCall("f", {"a": (number, "", {"k": [1.0]})}),),
        source="s",
        thought="x" * number,
    )


SPLITS = {"train": [example(number) for number in range(300)], "held_out": [example(1000)], "tune": []}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "set"
    write_dataset(folder, SPLITS, {"counts": {"rows": 301}}, {"report.json": "{}\n"})
    return folder


@pytest.fixture
def damaged(folder, tmp_path):
    """A copy of the dataset, to damage."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def shard(folder, split="train"):
    return folder / read_manifest(folder)["splits"][split]["shards"][0]["file"]


def test_what_is_read_is_what_was_written_in_its_order(folder):
    for split in ("train", "held_out"):
        source = open_split(folder, split)
        assert [source[index] for index in range(len(source))] == SPLITS[split]


def test_a_split_without_examples_is_empty(folder):
    assert len(open_split(folder, "tune")) == 0


def test_an_index_past_the_end_is_an_error(folder):
    for index in (300, -1):
        with pytest.raises(IndexError):
            open_split(folder, "train")[index]


def test_a_split_can_be_sent_to_another_process(folder):
    source = open_split(folder, "train")
    assert source[7] == example(7)
    assert pickle.loads(pickle.dumps(source))[8] == example(8)


def test_tfds_reads_the_folder_too(folder):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(folder))
    record = builder.as_data_source("train")[5]
    assert json.loads(record["json"])["id"] == "e-5"
    assert builder.info.splits["train"].num_examples == 300


def test_tfds_finds_it_by_name_in_a_folder_of_datasets(folder, tmp_path):
    import tensorflow_datasets as tfds

    shutil.copytree(folder, tmp_path / "function_calls" / "1.0.0")
    source = tfds.data_source("function_calls", split="train", data_dir=str(tmp_path))
    assert len(source) == 300 and json.loads(source[299]["json"])["id"] == "e-299"
    assert "tensorflow" not in sys.modules


def test_records_are_those_of_tfdss_own_serializer():
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    features = tfds.features.FeaturesDict({FEATURE: tfds.features.Text()})
    serializer = ExampleSerializer(features.get_serialized_info())
    for length in (0, 1, 100, 127, 128, 16_383, 16_384, 3_000_000):
        value = "x" * length
        record = serializer.serialize_example(features.encode_example({FEATURE: value}))
        assert to_record(value.encode()) == record and from_record(record) == value.encode()


def test_a_split_larger_than_a_shard_is_in_several_and_reads_as_one(tmp_path):
    with new_dataset(tmp_path / "set") as temporary:
        writer = DatasetWriter(temporary, 10_000)
        for each in SPLITS["train"]:
            writer.add("train", each)
        finish_dataset(temporary, writer.close(), {}, {})
    shards = read_manifest(tmp_path / "set")["splits"]["train"]["shards"]
    names = [f"function_calls-train.array_record-{i:05}-of-{len(shards):05}" for i in range(len(shards))]
    assert len(shards) > 5 and [each["file"] for each in shards] == names
    source = open_split(tmp_path / "set", "train")
    assert [source[index] for index in range(len(source))] == SPLITS["train"]
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(tmp_path / "set"))
    # A shard ends with the example that reaches the limit.
    assert len(builder.info.splits["train"].shard_lengths) == len(shards)
    assert json.loads(builder.as_data_source("train")[299]["json"])["id"] == "e-299"


def test_the_manifest_vouches_for_every_shard(folder):
    manifest = read_manifest(folder)
    assert manifest["counts"] == {"rows": 301}
    assert {name: split["examples"] for name, split in manifest["splits"].items()} == {
        "train": 300,
        "held_out": 1,
        "tune": 0,
    }
    listed = {shard["file"]: shard["sha256"] for split in manifest["splits"].values() for shard in split["shards"]}
    assert listed == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if "array_record" in path.name
    }


def test_two_processes_write_the_same_bytes(folder, tmp_path):
    code = "import sys; sys.path[:0] = sys.argv[2:]; import test_dataset as t; from pathlib import Path\n"
    code += "t.write_dataset(Path(sys.argv[1]), t.SPLITS, {'counts': {'rows': 301}}, {'report.json': '{}\\n'})"
    here = Path(__file__).parent
    again = tmp_path / "deeper" / "again"
    subprocess.run([sys.executable, "-c", code, str(again), str(here), str(here.parent)], check=True)
    names = sorted(path.name for path in folder.iterdir())
    assert sorted(path.name for path in again.iterdir()) == names and len(names) == 6
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_reading_imports_neither_tfds_nor_tensorflow_nor_jax(folder):
    code = "import sys; from jaxfc.data.dataset import open_split; open_split(sys.argv[1], 'train')[0]\n"
    code += "print({'tensorflow_datasets', 'tensorflow', 'jax'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_writing_says_nothing_on_standard_output_and_needs_no_tensorflow(tmp_path, capfd):
    write_dataset(tmp_path / "set", {"train": [example(1)]}, {}, {})
    assert capfd.readouterr().out == ""
    assert "tensorflow" not in sys.modules


def error_of(folder, split="train"):
    with pytest.raises(InputError) as caught:
        open_split(folder, split)
    return str(caught.value)


def test_a_missing_shard_is_named(damaged):
    path = shard(damaged)
    path.unlink()
    assert f"{path}: the shard is missing" in error_of(damaged)


def test_a_truncated_shard_is_named_with_both_sizes(damaged):
    path = shard(damaged)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path}: {size - 100} bytes, and manifest.json says {size}" in error_of(damaged)


def test_a_changed_shard_is_named(damaged):
    path = shard(damaged)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    message = error_of(damaged)
    assert str(path) in message and "the file was changed" in message


def test_an_unknown_split_is_answered_with_those_that_exist(folder):
    assert "has no split test; its splits are held_out, train, tune" in error_of(folder, "test")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "not found; a dataset is a folder made by scripts/prepare_data.py"),
        ("{", "not JSON"),
        ("[]", "format is list"),
        ('{"format": 99}', "format is 99"),
    ],
)
def test_a_missing_or_foreign_manifest_is_named(damaged, text, problem):
    path = damaged / MANIFEST
    path.unlink() if text is None else path.write_text(text)
    message = error_of(damaged)
    assert str(path) in message and problem in message


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="is there already"):
        write_dataset(tmp_path, SPLITS, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failure_half_way_leaves_nothing_behind(tmp_path):
    class Breaks(list):
        def __iter__(self):
            yield from SPLITS["train"][:3]
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_dataset(tmp_path / "set", {"train": Breaks(SPLITS["train"])}, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_message_and_leaves_nothing_behind(tmp_path):
    # A limit on the size of files fails in the same call as a full disk.
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
    code += "sys.path[:0] = sys.argv[2:]; import test_dataset as t; from pathlib import Path\n"
    code += "try: t.write_dataset(Path(sys.argv[1]), t.SPLITS, {}, {})\nexcept OSError as error: print(error)"
    here = Path(__file__).parent
    command = [sys.executable, "-B", "-c", code, str(tmp_path / "set"), str(here), str(here.parent)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.startswith(f"{tmp_path / 'set'}: cannot write this: File too large")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "set").mkdir()
    write_dataset(tmp_path / "set", {"train": [example(1)]}, {}, {})
    assert open_split(tmp_path / "set", "train")[0] == example(1)
