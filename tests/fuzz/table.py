"""The table of readers. Seed files are made once a session, by the writers that make them for users."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_readers import Files, Reader

TEXT = ("text",)


def made(write: Callable[[Path], object]) -> Files:
    """What ``write`` puts into a folder, by name."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root)
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.name != ".lock"
        }


def lines(*objects: Any) -> bytes:
    return "\n".join(json.dumps(one) for one in objects).encode() + b"\n"


# --- photos, filters, segmentation ------------------------------------------------------------------------------------


def photo(form: str) -> Callable[[], Files]:
    @cache
    def build() -> Files:
        from PIL import Image

        pixels = np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, form)
        return {f"a.{form.lower()}": data.getvalue()}

    return build


def photo_plugin(form: str) -> Callable[[], Files]:
    @cache
    def build() -> Files:
        module = pytest.importorskip({"HEIF": "pillow_heif", "JXL": "pillow_jxl"}[form])
        if form == "HEIF":
            module.register_heif_opener()
        return photo(form)()

    return build


@cache
def photo_array() -> Files:
    data = io.BytesIO()
    np.save(data, np.random.default_rng(0).integers(0, 65535, (20, 24, 3), np.uint16))
    return {"a.npy": data.getvalue()}


@cache
def photo_deflate() -> Files:
    import tifffile

    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)
    tifffile.imwrite(data, pixels, compression="zlib", rowsperstrip=8, photometric="rgb")
    return {"a.tif": data.getvalue()}


@cache
def photo_dicom() -> Files:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, OphthalmicPhotography8BitImageStorage

    pixels = np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = OphthalmicPhotography8BitImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Modality, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = "OP", 3, "RGB"
    dataset.PlanarConfiguration = dataset.PixelRepresentation = 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = pixels.tobytes()
    return made(lambda root: dataset.save_as(root / "a.dcm", enforce_file_format=True))


@cache
def mask_files() -> Files:
    from PIL import Image

    data = io.BytesIO()
    labels = np.random.default_rng(0).integers(0, 4, (40, 48, 1), np.uint8)
    picture = np.concatenate([np.repeat(labels, 3, -1), np.full_like(labels, 255)], -1)
    Image.fromarray(picture).save(data, "PNG")
    return {"a.png": data.getvalue()}


def read_mask(path: Path) -> object:
    from attn.core.segment.masks import read_mask

    return read_mask(path)


def record_files() -> Files:
    """A mask of one pixel, whose record is damaged as JSON and put into its place."""
    source = {"name": "a.png", "size": 5, "sample": "00ff", "place": "12345678"}
    kept = {"model": "sato", "threshold": 0.5, "measures": {"tortuosity": 1.5}, "source": source, "orientation": 1}
    return {"record.json": json.dumps(kept).encode()}


def read_record(path: Path) -> object:
    from attn.core.errors import UsageError
    from attn.core.io import bands
    from attn.core.report.model import Item
    from attn.core.segment import outputs

    mask = path.with_suffix(".mask.png")
    text = {outputs.RECORD: path.read_bytes().decode("latin-1")}
    bands.write_png(mask, (1, 1), [np.zeros((1, 1), np.uint8)], text=text)
    if outputs.read_record(mask) is None:
        raise UsageError("no record")
    rows = outputs.measured_rows([Item("a.png", str(mask), "ok", 0.0)], path.parent)
    outputs.write_table(path.parent / "vessels.csv", [], rows)
    return outputs.check_table(path.parent / "vessels.csv")


def read_photo(path: Path) -> object:
    from attn.core.io.photo.read import read_photo

    return read_photo(path, max_side=64)


@cache
def filter_files() -> Files:
    import torch

    from attn.core.denoise.base import FitOptions
    from attn.core.denoise.filter2noise.method import fit

    fitted = fit(torch.rand(32, 32), FitOptions(steps=1, stages=1, quality="fast", edge_weight=400.0))
    return made(lambda root: fitted.save(root / "f.safetensors"))


@cache
def adaptive_files() -> Files:
    import torch

    from attn.core.denoise.adaptive.method import fit
    from attn.core.denoise.base import FitOptions

    fitted = fit(torch.rand(12, 14), FitOptions())
    return made(lambda root: fitted.save(root / "f.safetensors"))


def read_filter(method: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        import torch

        from attn.core.denoise.kept import load_filter

        return load_filter(path, method)[0](torch.rand(*(32, 32) if method == "filter2noise" else (12, 14)))

    return read


@cache
def segmenter_files() -> Files:
    from attn.core.segment.fsgnet.checkpoint import FSGNetArchitecture, FSGNetCheckpoint, write_checkpoint
    from attn.core.segment.prepare import Preparation

    shape = FSGNetArchitecture(width=2, depths=(1, 1, 1, 1))
    state = shape.build().state_dict()
    ours = FSGNetCheckpoint("mine", shape, Preparation(321.0, "imagenet"), 0.375, state, {"steps": 5})
    return made(lambda root: write_checkpoint(ours, root / "m.safetensors"))


def read_segmenter(path: Path) -> object:
    from attn.core.segment.models import load

    return load(str(path))


def read_vessels(path: Path) -> object:
    from attn.core.segment.outputs import check_table

    return check_table(path)


# --- galleries, data sets, queries, runs ------------------------------------------------------------------------------


def read_gallery(path: Path) -> object:
    from attn.core.retrieve.data.gallery import read_gallery

    found = read_gallery([str(path)], ("text", "image"))
    return [
        entry.read_text() if entry.kind == "text" else entry.read_pixels(64)
        for one in found.arguments
        for entry in one.entries
    ]


@cache
def gallery_files() -> Files:
    picture = photo("PNG")()["a.png"]
    return {
        "a.png": picture, "b.png": picture, "note.txt": b"a cat\n", "deep/more.md": b"# dog\n",
        "metadata.jsonl": lines(
            {"file_name": "a.png", "lang": "en", "year": 1999, "of": {"x": 1.5}}, {"file_name": "b.png"}
        ),
    }  # fmt: skip


@cache
def described_files() -> Files:
    return {"a.png": photo("PNG")()["a.png"], "metadata.csv": b"file_name,year,lang\na.png,1999,en\n"}


def jsonl_files() -> Files:
    return {"g.jsonl": lines({"id": "a", "text": "a cat", "year": 1}, {"id": "b", "text": "dog", "tags": ["x"]})}


def tsv_files() -> Files:
    return {"g.tsv": b"id\ttext\tyear\na\ta cat\t1999\nb\ta dog\t2.5\n"}


@cache
def parquet_files() -> Files:
    import pyarrow as pa
    import pyarrow.parquet as pq

    picture = photo("PNG")()["a.png"]
    table = pa.table({"id": ["a", "b"], "image": [{"bytes": picture, "path": "a.png"}] * 2, "year": [1, 2]})
    return made(lambda root: pq.write_table(table, root / "g.parquet"))


def read_dataset(path: Path) -> object:
    from attn.core.retrieve.data.formats import read_dataset

    return read_dataset(path, split="val" if path.suffix == ".json" or (path / "reid.json").exists() else None)


def beir_files() -> Files:
    return {
        "corpus.jsonl": lines({"_id": "a", "title": "", "text": "cat"}, {"_id": "b", "title": "t", "text": "dog"}),
        "queries.jsonl": lines({"_id": "q", "text": "cats"}),
        "qrels/test.tsv": b"query-id\tcorpus-id\tscore\nq\ta\t1\nq\tb\t0\n",
    }


@cache
def mteb_files() -> Files:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(root: Path) -> None:
        for name, columns in (
            ("corpus", {"_id": ["a", "b"], "text": ["cat", "dog"], "title": ["", ""]}),
            ("queries", {"_id": ["q"], "text": ["cats"]}),
            ("data", {"query-id": ["q"], "corpus-id": ["a"], "score": [1]}),
        ):
            folder = root / (name if name != "data" else "qrels")
            folder.mkdir()
            pq.write_table(pa.table(columns), folder / "test.parquet")

    return made(write)


@cache
def caption_files() -> Files:
    listed = [
        {"file_path": "a.png", "captions": ["a man in red", "red man"], "id": 1, "split": "train"},
        {"file_path": "b.png", "captions": ["a man in blue"], "id": 2, "split": "val"},
    ]
    picture = photo("PNG")()["a.png"]
    return {"reid.json": json.dumps(listed).encode(), "imgs/a.png": picture, "imgs/b.png": picture}


def read_captions_for_training(path: Path) -> object:
    from attn.core.train.ga_dms import data as ga_dms_data

    return ga_dms_data.read_data(path / "reid.json", (24, 16), 1, 0)


def read_scenes(path: Path) -> object:
    from attn.core.retrieve.priorclip import data

    return data.read_dataset(path / "reid.json", 32)


def queries(path: Path) -> object:
    from attn.core.retrieve.data.queries import read_queries

    return read_queries(path)


def read_run(path: Path) -> object:
    from attn.core.retrieve.score.runs import read_run

    return read_run(path)


def read_qrels(path: Path) -> object:
    from attn.core.retrieve.score.qrels import read_qrels

    return read_qrels(path)


# --- indexes and models -----------------------------------------------------------------------------------------------


@cache
def index_files(kind: str) -> Files:
    from attn.core.retrieve.store import Header, create

    def write(root: Path) -> None:
        store = create(root / "i", Header.new({"model": "tiny", "sha256": "0" * 64, "dim": 8}, 8), kind)  # type: ignore[arg-type]
        vectors = np.eye(8, dtype=np.float32)[:4]
        store.add(list("abcd"), vectors, [{"kind": "text", "text": "x", "stamp": "1", "year": 1}] * 4)
        store.delete(["b"])
        store.close()

    return {f"i/{name.removeprefix('i/')}": data for name, data in made(write).items()}


def read_index(path: Path) -> object:
    from attn.core.retrieve.store import open_store

    store = open_store(path / "i")
    try:
        store.entries()
        return store.search(np.full((1, 8), 8**-0.5, np.float32), 3)
    finally:
        store.close()


@cache
def encoder_files() -> Files:
    from encoder_folders import sentence_folder

    return made(lambda root: sentence_folder(root))


@cache
def clip_files() -> Files:
    from encoder_folders import dual_folder

    return made(lambda root: dual_folder(root))


def read_encoder(path: Path) -> object:
    from attn.core.retrieve.encoders.load import load

    return load(str(path)).encode_texts(["a cat"])


@cache
def ga_dms_files() -> Files:
    from attn.core.retrieve.gadms.checkpoint import GADMSCheckpoint, write_checkpoint
    from attn.core.retrieve.gadms.clip import GADMS, CLIPArchitecture
    from attn.core.retrieve.gadms.tokenizer import WordTokenizer

    words = WordTokenizer(("a", "red", "bag", "person"))
    shape = CLIPArchitecture(
        embed_dim=16, image_size=(24, 16), patch_size=8, vision_width=16, vision_layers=2, text_length=7,
        vocab_size=words.vocab_size, text_width=16, text_heads=2, text_layers=3, decoder_layers=1, head_dim=8,
    )  # fmt: skip
    ours = GADMSCheckpoint("ga-dms", shape, words, GADMS(shape).state_dict(), {"seed": 4})
    return made(lambda root: write_checkpoint(ours, root / "m.safetensors"))


# --- bench and training -----------------------------------------------------------------------------------------------


@cache
def qkv_files() -> Files:
    rng = np.random.default_rng(0)
    data = io.BytesIO()
    np.savez(
        data, **{name: rng.standard_normal((2, 32, 16)).astype(np.float32) for name in "qkv"}, scale=0.25, head=[0, 1]
    )  # type: ignore[arg-type]
    return {"x.npz": data.getvalue()}


def read_qkv(path: Path) -> object:
    from attn.core.bench.inputs import load_captured

    return load_captured(path, seq=16)


def read_boxes(path: Path) -> object:
    from attn.core.probe.scanpath.boxes import objects_of, read_boxes

    return objects_of(path, read_boxes(path), "a.png", (40, 48), "tin")


def read_scanpaths(path: Path) -> object:
    from attn.core.probe.scanpath.paths import compare_files

    return compare_files(path, path)


def coco_files() -> Files:
    coco = {
        "images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "tin"}, {"id": 2, "name": "x"}],
        "annotations": [{"image_id": 1, "category_id": n, "bbox": [3 * n, 2, 10.5, 20]} for n in (1, 2)],
    }  # fmt: skip
    return {"b.json": json.dumps(coco).encode()}


def scanpath_files() -> Files:
    path = {"id": "s", "fixations": [1, 2, 4], "target": 4, "screen": [300, 200]}
    return {"p.jsonl": lines({**path, "rows": 2, "cols": 3}, {**path, "xy": [[1, 2], [30.5, 4], [5, 6]]})}


READERS = (
    *(Reader(f"photo-{form}", photo(form), read_photo, f"a.{form.lower()}") for form in
      ("PNG", "JPEG", "TIFF", "GIF", "BMP", "PPM", "WEBP", "JPEG2000", "AVIF")),
    *(Reader(f"photo-{form}", photo_plugin(form), read_photo, f"a.{form.lower()}") for form in ("HEIF", "JXL")),
    Reader("photo-NPY", photo_array, read_photo, "a.npy"),
    Reader("photo-deflate", photo_deflate, read_photo, "a.tif"),
    Reader("photo-DICOM", photo_dicom, read_photo, "a.dcm"),
    Reader("mask", mask_files, read_mask, "a.png"),
    Reader("mask-record", record_files, read_record, "record.json"),
    Reader("filter", filter_files, read_filter("filter2noise"), "f.safetensors"),
    Reader("filter-adaptive", adaptive_files, read_filter("adaptive"), "f.safetensors"),
    Reader("segmenter", segmenter_files, read_segmenter, "m.safetensors"),
    Reader("vessels", lambda: {"vessels.csv": b"image,mask,model,threshold,density\na.png,a.mask.png,fsgnet,0.5,0.1\n"},
           read_vessels, "vessels.csv"),
    Reader("gallery", gallery_files, read_gallery),
    Reader("gallery-csv", described_files, read_gallery, "metadata.csv"),
    Reader("gallery-jsonl", jsonl_files, read_gallery, "g.jsonl"),
    Reader("gallery-tsv", tsv_files, read_gallery, "g.tsv"),
    Reader("gallery-parquet", parquet_files, read_gallery, "g.parquet"),
    Reader("beir", beir_files, read_dataset),
    Reader("mteb", mteb_files, read_dataset),
    Reader("captions", caption_files, read_dataset, "reid.json"),
    Reader("captions-training", caption_files, read_captions_for_training),
    Reader("scenes", caption_files, read_scenes),
    Reader("queries-jsonl", lambda: {"q.jsonl": lines({"_id": "a", "text": "cat"}, {"_id": "b", "text": "dog"})},
           queries, "q.jsonl"),
    Reader("queries-tsv", lambda: {"q.tsv": b"a\tcat\nb\tdog\n"}, queries, "q.tsv"),
    Reader("queries-txt", lambda: {"q.txt": b"cat\ndog\n"}, queries, "q.txt"),
    Reader("queries-csv", lambda: {"q.csv": b"id,text\na,cat\nb,dog\n"}, queries, "q.csv"),
    Reader("queries-json", lambda: {"q.json": b'{"a": "cat", "b": "dog"}'}, queries, "q.json"),
    Reader("run", lambda: {"r.run": b"q Q0 a 1 0.5 tag\nq Q0 b 2 0.25 tag\n"}, read_run, "r.run"),
    Reader("run-jsonl", lambda: {"r.jsonl": lines({"query_id": "q", "hits": [{"id": "a", "score": 0.5}]})},
           read_run, "r.jsonl"),
    Reader("qrels", lambda: {"q.tsv": b"query-id\tcorpus-id\tscore\nq\ta\t1\n"}, read_qrels, "q.tsv"),
    Reader("index-flat", lambda: index_files("flat"), read_index),
    Reader("index-lance", lambda: index_files("lance"), read_index),
    Reader("encoder", encoder_files, read_encoder),
    Reader("encoder-clip", clip_files, read_encoder),
    Reader("encoder-ga-dms", ga_dms_files, read_encoder, "m.safetensors"),
    Reader("boxes-csv", lambda: {
        "b.csv": b"image,x0,y0,x1,y1,label,target\na.png,1,2,11,22,tin,1\na.png,15,2,25,22.5,x,0\n"
    }, read_boxes, "b.csv"),
    Reader("boxes-json", coco_files, read_boxes, "b.json"),
    Reader("scanpaths", scanpath_files, read_scanpaths, "p.jsonl"),
    Reader("qkv", qkv_files, read_qkv, "x.npz"),
)  # fmt: skip
