"""What lies at a path becomes the same rows, whatever its format; what cannot be read is said in a sentence."""

import io
import shutil

import numpy as np
import pytest
import sparknet
from pictures import images
from PIL import Image
from sparknet import _native
from sparknet.spark import sequence_files, sources
from sparknet.spark.sources import Columns, SourceError
from test_data import png

from golden import GOLDEN

DATA = GOLDEN / "data"


def collected(source: sources.Source) -> dict[str, tuple[bytes, float]]:
    """Rows by their names."""
    frame = source.frame.select(source.id, source.features, source.label)
    return {str(row[0]): (bytes(row[1]), row[2]) for row in frame.collect()}


@pytest.fixture(scope="module")
def pixels():
    """Twelve pictures of two classes as PNG files: by a path below a folder, their bytes and their labels."""
    found, labels = images(12)
    return {
        f"{'dark' if label % 2 else 'bright'}/{index}.png": (bytes(png(image)), float(label % 2))
        for index, (image, label) in enumerate(zip(found, labels, strict=True))
    }


@pytest.fixture
def folder(tmp_path, pixels):
    """The pictures as files, in a folder for each class, below a folder whose name occurs twice in the path."""
    root = tmp_path / "pictures" / "pictures"
    for name, (content, _) in pixels.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_images_by_folder_and_by_list(spark, pixels, folder, tmp_path):
    (folder / "notes.txt").write_text("no image")
    assert collected(sources.read(spark, str(folder))) == pixels
    lines = [f"{name} {7 if label else 3}" for name, (_, label) in pixels.items()]
    (tmp_path / "list.txt").write_text("\n".join(lines[:5]) + "\n\n")
    some = {name: (content, 7.0 if label else 3.0) for name, (content, label) in list(pixels.items())[:5]}
    assert collected(sources.read(spark, str(folder), list_file=str(tmp_path / "list.txt"))) == some
    (tmp_path / "list.txt").write_text("dark/1.png 1\nbright/99.png 0\n")
    with pytest.raises(SourceError, match=r"list.txt names bright/99.png, which is not in .*pictures"):
        sources.read(spark, str(folder), list_file=str(tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_text("dark/1.png\n")
    with pytest.raises(
        SourceError, match=r"list.txt has the line 'dark/1.png': a line is an image's path and its label"
    ):
        sources.read(spark, str(folder), list_file=str(tmp_path / "list.txt"))
    shutil.copy(folder / "dark/1.png", folder)
    with pytest.raises(SourceError, match=r"images lie directly in .*: put those of each class in a folder"):
        sources.read(spark, str(folder))


def test_parquet(spark, pixels, tmp_path):
    path = str(tmp_path / "table")
    rows = [(name, bytearray(content), int(label)) for name, (content, label) in pixels.items()]
    frame = spark.createDataFrame(rows, "id string, image binary, label int")
    frame.write.parquet(path)
    assert collected(sources.read(spark, path)) == pixels
    # As CaffeOnSpark's LMDB2DataFrame has them: labels in text, the shape of raw pixels in columns.
    schema = "id string, label string, channels int, height int, width int, encoded boolean, data binary"
    theirs = [("00000007", "5", 1, 2, 3, False, bytearray(b"abcdef"))]
    spark.createDataFrame(theirs, schema).write.parquet(str(tmp_path / "theirs"))
    source = sources.read(spark, str(tmp_path / "theirs"))
    assert collected(source) == {"00000007": (b"abcdef", 5.0)} and source.shape == [1, 2, 3]
    renamed = str(tmp_path / "renamed")
    frame.toDF("SampleID", "picture", "kind").write.parquet(renamed)
    columns = Columns(features="picture", label="kind")
    assert collected(sources.read(spark, renamed, columns=columns)) == pixels
    with pytest.raises(
        SourceError, match="columns SampleID, picture, kind, and none is called data or image or features"
    ):
        sources.read(spark, renamed)
    with pytest.raises(SourceError, match="has no column kinds, but SampleID, picture, kind: correct --label-col"):
        sources.read(spark, renamed, columns=Columns("picture", "kinds"))


def test_lmdb_is_read_by_tasks_each_its_range(spark, tmp_path):
    source = sources.read(spark, str(DATA / "raw_lmdb"))
    assert source.shape == [1, 28, 28] and source.frame.rdd.getNumPartitions() == 2
    found = collected(source)
    whole = _native.Lmdb(str(DATA / "raw_lmdb"))
    keys, labels, values, offsets = whole.read(0, len(whole), 1 << 30)
    assert len(found) == len(keys) == 96
    for index, key in enumerate(keys):
        assert found[key] == (values[offsets[index] : offsets[index + 1]], labels[index])
    # The net's own data layer reads the same pixels.
    layer = f"""layer {{ name: "d" type: "Data" top: "data" top: "label"
      data_param {{ source: "{DATA / "raw_lmdb"}" backend: LMDB batch_size: 96 }} }}"""
    (tmp_path / "net.prototxt").write_text(layer)
    net = sparknet.Net(str(tmp_path / "net.prototxt"), phase=sparknet.TEST)
    net.forward()
    assert np.array_equal(net.blobs["data"].data.astype(np.uint8).tobytes(), values)
    # A reader that is told to take little at once comes to the same.
    few = [whole.read(start, 96 - start, 1)[2] for start in range(96)]
    assert b"".join(few) == values


def test_lmdb_of_encoded_images(spark):
    source = sources.read(spark, str(DATA / "encoded_lmdb"))
    assert source.shape is None
    found = collected(source)
    assert len(found) == len(_native.Lmdb(str(DATA / "encoded_lmdb"))) > 0
    assert all(Image.open(io.BytesIO(content)).size for content, _ in found.values())


def java_bytes(spark, value) -> bytearray:
    """What Java writes of an object: CaffeOnSpark's keys."""
    jvm = spark._jvm
    buffer = jvm.java.io.ByteArrayOutputStream()
    stream = jvm.java.io.ObjectOutputStream(buffer)
    stream.writeObject(value)
    stream.close()
    return bytearray(buffer.toByteArray())


#: Spark's own reader, and the one for Spark Connect, which needs no JVM and runs on either.
READERS = (sources.read, sources.sequence_by_files)


def test_sequence_files(spark, pixels, tmp_path):
    context, tuples = spark.sparkContext, spark._jvm.scala
    forms = {
        "text": lambda name, label: f"{name} {label:.0f}",
        "pair": lambda name, label: java_bytes(spark, tuples.Tuple2(name, f"{label:.0f}")),
    }
    for form, key in forms.items():
        pairs = [(key(name, label), bytearray(content)) for name, (content, label) in pixels.items()]
        context.parallelize(pairs, 2).saveAsSequenceFile(str(tmp_path / form))
        for read in READERS:
            source = read(spark, str(tmp_path / form))
            assert collected(source) == pixels and source.shape is None
    # The label alone, and raw pixels with their shape.
    context.parallelize([("3", bytearray(b"abc")), ("1", bytearray(b"de"))], 1).saveAsSequenceFile(
        str(tmp_path / "label")
    )
    for read in READERS:
        assert collected(read(spark, str(tmp_path / "label"))) == {"3": (b"abc", 3.0), "1": (b"de", 1.0)}
    raw = [
        (
            java_bytes(spark, tuples.Tuple6(f"0000{index}", str(index), 1, 2, 3, False)),
            bytearray(range(index, index + 6)),
        )
        for index in range(4)
    ]
    context.parallelize(raw, 1).saveAsSequenceFile(str(tmp_path / "raw"))
    for read in READERS:
        source = read(spark, str(tmp_path / "raw"))
        assert source.shape == [1, 2, 3]
        expected = {f"0000{index}": (bytes(range(index, index + 6)), float(index)) for index in range(4)}
        assert collected(source) == expected
    context.parallelize([("no label", bytearray(b"abc"))], 1).saveAsSequenceFile(str(tmp_path / "bad"))
    with pytest.raises(ValueError, match="the key 'no label' of a SequenceFile has no label"):
        sources.read(spark, str(tmp_path / "bad"))
    context.parallelize([(bytearray(b"\xac\xed\x00\x05sr"), bytearray(b"abc"))], 1).saveAsSequenceFile(
        str(tmp_path / "cut")
    )
    with pytest.raises(ValueError, match=r"is no \(id, label\) as CaffeOnSpark writes them"):
        sources.read(spark, str(tmp_path / "cut"))


def test_sequence_files_of_all_kinds_without_spark_s_reader(spark, tmp_path):
    """Compressed by record and by block, keys of several classes, and more than one marker in a file."""
    context = spark.sparkContext
    content = {f"{index} {index % 3}": (bytes([index % 256]) * (index * 7), float(index % 3)) for index in range(400)}
    pairs = context.parallelize([(key, bytearray(value)) for key, (value, _) in content.items()], 1)
    codecs = "org.apache.hadoop.io.compress."
    expected = {key.split()[0]: row for key, row in content.items()}
    for codec in ("DefaultCodec", "GzipCodec", "BZip2Codec"):
        pairs.saveAsSequenceFile(str(tmp_path / codec), codecs + codec)
        assert collected(sources.sequence_by_files(spark, str(tmp_path / codec))) == expected
    prefix = "mapreduce.output.fileoutputformat."
    settings = {
        "mapreduce.job.outputformat.class": "org.apache.hadoop.mapreduce.lib.output.SequenceFileOutputFormat",
        "mapreduce.job.output.key.class": "org.apache.hadoop.io.Text",
        "mapreduce.job.output.value.class": "org.apache.hadoop.io.BytesWritable",
        f"{prefix}compress": "true",
        f"{prefix}compress.type": "RECORD",
        f"{prefix}compress.codec": codecs + "DefaultCodec",
        f"{prefix}outputdir": str(tmp_path / "record"),
    }
    pairs.saveAsNewAPIHadoopDataset(settings)
    assert collected(sources.sequence_by_files(spark, str(tmp_path / "record"))) == expected
    for kind, keys in (("int", [3, -200, 70_000]), ("float", [0.5, 2.0, -1.0])):
        numbers = context.parallelize([(key, bytearray(b"x")) for key in keys], 1)
        numbers.saveAsSequenceFile(str(tmp_path / kind))
        found = collected(sources.sequence_by_files(spark, str(tmp_path / kind)))
        assert found == {str(key): (b"x", float(key)) for key in keys}
    # Every way of cutting a file off is said, and none is taken for its end but where a record ends.
    (whole,) = (path.read_bytes() for path in (tmp_path / "int").glob("part-*"))
    ends = []
    for length in range(len(whole)):
        try:
            ends.append(len(list(sequence_files.records(memoryview(whole[:length])))))
        except sparknet.InputError as error:
            assert "a SequenceFile cannot be read (" in str(error)
    assert ends == [0, 1, 2]
    damaged = bytearray(whole)
    damaged[whole.index(b"BytesWritable")] = ord("C")
    with pytest.raises(sparknet.InputError, match="the values of a SequenceFile are CytesWritable: write images as"):
        list(sequence_files.records(memoryview(damaged)))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "part-00000").write_bytes(whole[:-1])
    with pytest.raises(
        SourceError, match=r"cut: a SequenceFile cannot be read \(it is cut off\): copy or write it anew"
    ):
        sources.sequence_by_files(spark, str(tmp_path / "cut"))


def test_what_is_no_data_is_said(spark, tmp_path):
    with pytest.raises(SourceError, match="nowhere does not exist: correct the path"):
        sources.read(spark, str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty has no files: name a folder with data"):
        sources.read(spark, str(tmp_path / "empty"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "readme.txt").write_text("no data at all")
    with pytest.raises(SourceError, match="neither Parquet, images, an LMDB nor SequenceFiles, as readme.txt shows"):
        sources.read(spark, str(tmp_path / "text"))
    (tmp_path / "lmdb").mkdir()
    (tmp_path / "lmdb" / "data.mdb").write_bytes(b"no tree")
    with pytest.raises(ValueError, match="data.mdb has only 7 bytes, it is truncated"):
        sources.read(spark, str(tmp_path / "lmdb"))
