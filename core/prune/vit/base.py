"""What a pruning method of image transformers is, and how pictures go through it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ...errors import UsageError
from ...models.geometry import Geometry, geometry_of
from ...models.images import BATCH_IMAGES, PreparedImage
from ...models.loaded import Loaded
from ...models.pictures import ColourPicture
from ..methods.base import Keep
from .passes import pruned_images
from .site import ImageSite, image_site
from .stages import DropStage, ImageTrace, MergeStages


@dataclass(frozen=True)
class VitPruner(ABC):
    """A method with its settings.

    Its budget is the mean share (or number) of the patches that are left in the attention of the blocks behind the
    first place at which it takes any out.
    """

    @abstractmethod
    def applied(self, site: ImageSite, keep: Keep) -> AbstractContextManager[ImageTrace]:
        """The model runs with fewer tokens inside. Raises ``UsageError`` if model or budget do not allow it."""

    def check(self, site: ImageSite, keep: Keep) -> None:
        """Raise ``UsageError`` where ``applied`` would."""
        with self.applied(site, keep):
            pass

    def counted(self, site: ImageSite) -> AbstractContextManager[ImageTrace]:
        """The model runs as it is, and what it costs is counted."""
        return pruned_images(site)

    def fitted(self, site: ImageSite, batches: Sequence[Tensor], keep: Keep) -> tuple[Self, str]:
        """This method with what it has to learn from pictures, and what to tell the user of it; by default nothing."""
        return self, ""

    def run(
        self, loaded: Loaded, pictures: Sequence[ColourPicture], keep: Keep, *, batch: int = BATCH_IMAGES
    ) -> VitRun:
        """Pictures through the plain and the pruned model.

        Parameters
        ----------
        loaded : Loaded
            See ``models.load_image_model``.
        pictures : sequence of ColourPicture
        keep : Keep
        batch : int
            Pictures at a time; 1 where the model's head reads the mean of the patches.

        Raises
        ------
        UsageError
            If model, method or budget do not fit each other.
        """
        if loaded.processor.images is None:
            raise UsageError(f"{type(loaded.model).__name__} comes without a preparation of images.")
        prepared = [loaded.processor.images.prepared(picture.pixels) for picture in pictures]
        shown = [one.of(picture.size) for one, picture in zip(prepared, pictures, strict=True)]
        return self.run_prepared(loaded.model, shown, keep, batch=batch)

    @torch.inference_mode()
    def run_prepared(
        self, model: Any, prepared: Sequence[PreparedImage], keep: Keep, *, batch: int = BATCH_IMAGES
    ) -> VitRun:
        """``run`` of pictures that are prepared already."""
        site = image_site(model)
        batch = 1 if site.pools else batch
        parameter = next(model.parameters())
        pixels = torch.stack([one.pixels for one in prepared]).to(parameter)
        batches = pixels.split(batch)  # type: ignore[no-untyped-call]
        method, note = self.fitted(site, batches, keep)
        results: list[VitResult] = []
        for number, part in enumerate(batches):
            plain, plain_seconds = timed(model, part)
            with method.counted(site) as whole:
                model(part[:1])  # nothing is pruned: what the plain model costs
            with method.applied(site, keep) as trace:
                output, seconds = timed(model, part)
            before, after, now = read_output(model, plain), read_output(model, output), trace.last
            for i in range(len(part)):
                picture = prepared[number * batch + i]
                results.append(
                    VitResult(
                        geometry_of(model, picture), [int(counts[i]) for counts in now.attended],
                        {layer: owner[i].cpu() for layer, owner in now.owners.items()}, now.owner[i].cpu(),
                        before.values[i].float().cpu(), after.values[i].float().cpu(), before.classes,
                        float(whole.last.multiply_adds[0]), float(now.multiply_adds[i]),
                        plain_seconds / len(part), seconds / len(part), float(now.retention(0)[i]),
                    )
                )  # fmt: skip
        return VitRun(method, tuple(results), site.depth, (note,) if note else ())


@dataclass(frozen=True)
class StagedPruner(VitPruner):
    """A method that drops in front of blocks, or merges inside them."""

    @abstractmethod
    def stages(self, site: ImageSite, keep: Keep) -> tuple[Sequence[DropStage], MergeStages | None]:
        """What it drops and merges where. Raises ``UsageError`` if the model or the budget does not allow it."""

    @contextmanager
    def applied(self, site: ImageSite, keep: Keep) -> Iterator[ImageTrace]:
        drops, merges = self.stages(site, keep)
        with pruned_images(site, drops, merges) as trace:
            yield trace


@dataclass(frozen=True, slots=True)
class ModelSays:
    """What a model says of pictures: ``values`` [B, C], logits of ``classes`` or features of the class token."""

    values: Tensor
    classes: bool


def check_read(model: Any) -> None:
    """Raise ``UsageError`` where ``read_output`` would take something else for the class token."""
    if getattr(model, "num_classes", 1):
        return
    pooled = "class and distillation" if hasattr(model, "head_dist") else getattr(model, "global_pool", "token")
    if pooled not in ("token", ""):
        raise UsageError(
            f"{type(model).__name__} of timm without classes gives its tokens as one ({pooled}), not its class token, "
            "by which pruning is judged."
        )


def read_output(model: Any, output: Any) -> ModelSays:
    """Logits of a classifier; of a backbone the class token behind the last norm."""
    if isinstance(logits := getattr(output, "logits", None), Tensor):
        return ModelSays(logits, True)
    if isinstance(hidden := getattr(output, "last_hidden_state", None), Tensor):
        return ModelSays(hidden[:, 0], False)
    if isinstance(output, Tensor) and hasattr(model, "num_prefix_tokens"):  # timm
        return ModelSays(output if output.ndim == 2 else output[:, 0], model.num_classes > 0)
    raise UsageError(f"a model that gives {type(output).__name__} is neither a classifier nor a backbone of images.")


def timed(model: Any, pixels: Tensor) -> tuple[Any, float]:
    """What the model gives, and seconds."""
    start = time.perf_counter()
    output = model(pixels)
    if pixels.is_cuda:
        torch.cuda.synchronize(pixels.device)
    return output, time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class VitResult:
    """One picture through the plain and the pruned model.

    Parameters
    ----------
    geometry : Geometry
        Where its patches are in the user's picture.
    tokens : list of int
        Patches in the attention of each block.
    owners : dict, block -> Tensor of int64 [P]
        What became of each patch behind the stages: the number of its token; -1: dropped.
    owner : Tensor of int64 [P]
        The same at the end: the merged map.
    before, after : Tensor [C], float32
        Logits of ``classes``, or the class token behind the last norm.
    classes : bool
    multiply_adds_before, multiply_adds : float
        Counted (methods/as-vit.md, section 3.3, step 5).
    seconds_before, seconds : float
        The batch's, divided by its pictures.
    retention : float
        Mean share of patches over all blocks.
    """

    geometry: Geometry
    tokens: list[int]
    owners: dict[int, Tensor]
    owner: Tensor
    before: Tensor
    after: Tensor
    classes: bool
    multiply_adds_before: float
    multiply_adds: float
    seconds_before: float
    seconds: float
    retention: float

    @property
    def kept(self) -> Tensor:
        """Numbers of the patches that were not dropped, ascending."""
        return (self.owner >= 0).nonzero().flatten()

    @property
    def cosine(self) -> float:
        """Of what the model says before and after."""
        return float(torch.nn.functional.cosine_similarity(self.before.double(), self.after.double(), dim=0))

    @property
    def top1_agreement(self) -> bool:
        """Whether the best class is the same."""
        return bool(self.before.argmax() == self.after.argmax())

    def classes_of(self, count: int = 5, *, pruned: bool = True) -> list[int]:
        """The best classes, best first."""
        values = self.after if pruned else self.before
        found: list[int] = values.topk(min(count, len(values))).indices.tolist()
        return found


@dataclass(frozen=True, slots=True)
class VitRun:
    """Pictures through one method: the method with what it learnt, one result each, the model's depth, what to say."""

    method: VitPruner
    results: tuple[VitResult, ...]
    depth: int
    warnings: tuple[str, ...] = ()

    @property
    def first(self) -> int:
        """The first block that gets fewer patches of any picture; the depth where none does."""
        for block in range(self.depth):
            if any(result.tokens[block] < len(result.owner) for result in self.results):
                return block
        return self.depth

    @property
    def keep(self) -> float:
        """Counted: mean share of the patches over pictures and the blocks behind the first pruning."""
        first = self.first
        if first == self.depth:
            return 1.0
        shares = [sum(r.tokens[first:]) / (len(r.owner) * (self.depth - first)) for r in self.results]
        return sum(shares) / len(shares)
