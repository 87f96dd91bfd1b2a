"""Patches taken out of image transformers: every class, batches, budgets, refusals."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import transformers as hf
from open_clip_package import open_clip

from attn.core.errors import UsageError
from attn.core.nets.vit import VisionTransformer, ViTShape
from attn.core.prune.api import prune
from attn.core.prune.methods.base import Keep
from attn.core.prune.vit.as_vit import AsViT
from attn.core.prune.vit.base import VitPruner, check_read, read_output
from attn.core.prune.vit.named import image_methods, image_pruner_of
from attn.core.prune.vit.ranked import ClassAttention, RandomPatches, positions_of, stage_counts
from attn.core.prune.vit.site import image_site
from attn.core.prune.vit.tome import ToMe, schedule_for

SMALL = dict(
    hidden_size=16, num_hidden_layers=6, num_attention_heads=2, intermediate_size=24, image_size=16, patch_size=2,
    num_labels=5,
)  # fmt: skip


def timm(name: str, **changes: Any) -> Any:
    open_clip()  # makes torchvision importable
    from timm import create_model

    sizes = dict(img_size=16, patch_size=2, embed_dim=16, depth=6, num_heads=2, num_classes=5)
    return create_model(name, pretrained=False, **sizes | changes)


MODELS = {
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**SMALL)),
    "vit classes": lambda: hf.ViTForImageClassification(hf.ViTConfig(**SMALL)),
    "deit": lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**SMALL)),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**SMALL)),
    "dinov2 classes": lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**SMALL)),
    "registers": lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**SMALL)),
    "ours": lambda: VisionTransformer(ViTShape(16, 2, 3, 5, 16, 6, 2)),
    "timm": lambda: timm("vit_tiny_patch16_224"),
    "timm scaled": lambda: timm("vit_tiny_patch16_224", qk_norm=True, init_values=1.0, global_pool="avg"),
    "timm deit": lambda: timm("deit_tiny_distilled_patch16_224"),
    "timm registers": lambda: timm("vit_small_patch14_reg4_dinov2", num_classes=0),
}
METHODS: dict[str, VitPruner] = {
    "tome": ToMe(), "random": RandomPatches(), "class-attention": ClassAttention(), "as-vit": AsViT(),
}  # fmt: skip


def named(*names: str) -> list[Any]:
    """Models for a test; those of timm are not everywhere."""
    mark = pytest.mark.packaged("open_clip")
    return [pytest.param(name, marks=mark) if name.startswith("timm") else name for name in names]


def build(name: str, kernel: str = "sdpa") -> Any:
    """With weights under which attention is far from uniform."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = 0.3 * noise if parameter.ndim > 1 else parameter.data + 0.1 * noise
    if kernel != "sdpa":
        model.set_attn_implementation(kernel)
    return model


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def values(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return read_output(model, model(pixels)).values


@pytest.mark.parametrize("name", named(*MODELS))
@torch.no_grad()
def test_budget_is_counted_and_the_model_is_left_as_it_was(name: str, pixels: torch.Tensor) -> None:
    model = build(name)
    site, plain = image_site(model), values(model, pixels)
    one = 1 if site.pools else 3
    for method in METHODS.values():
        with method.applied(site, Keep(share=1.0)) as trace:
            assert torch.equal(values(model, pixels), plain)
        assert [counts.tolist() for counts in trace.last.attended] == [[64] * 3] * 6
        for share in (0.7, 0.4):
            with method.applied(site, Keep(share=share)) as trace:
                changed = values(model, pixels[:one])
            assert (changed - plain[:one]).abs().max() > 1e-4
            now = trace.last
            assert float(now.retention(now.first).mean()) == pytest.approx(share, abs=0.006)
            with method.applied(site, Keep(count=round(64 * share))) as trace:
                values(model, pixels[:one])
            counts = torch.stack(trace.last.attended[trace.last.first :]).double()
            assert float(counts.mean()) == pytest.approx(round(64 * share), abs=0.4)
    assert torch.equal(values(model, pixels), plain)
    for block in site.blocks:
        assert "forward" not in vars(block.block)
        assert not block.block._forward_pre_hooks
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in block.attention.modules())


@pytest.mark.parametrize("name", ["vit classes", "registers"])
@torch.no_grad()
def test_kernels_agree(name: str, pixels: torch.Tensor) -> None:
    for method in METHODS.values():
        outs = []
        for kernel in ("sdpa", "eager"):
            model = build(name, kernel)
            with method.applied(image_site(model), Keep(share=0.5)):
                outs.append(values(model, pixels))
        torch.testing.assert_close(*outs, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", named("deit", "dinov2", "ours", "timm", "timm deit", "timm registers"))
@torch.no_grad()
def test_a_picture_in_a_batch_is_as_alone(name: str, pixels: torch.Tensor) -> None:
    model = build(name)
    site = image_site(model)
    method, _ = AsViT().fitted(site, [pixels], Keep(share=0.5))
    for pruner in (method, ToMe(), RandomPatches(seed=3), ClassAttention()):
        with pruner.applied(site, Keep(share=0.5)) as trace:
            batch = values(model, pixels)
        with pruner.applied(site, Keep(share=0.5)) as single:
            alone = torch.cat([values(model, picture[None]) for picture in pixels])
        torch.testing.assert_close(alone, batch, atol=1e-5, rtol=0)
        for i, one in enumerate(single.passes):
            assert torch.equal(one.owner[0], trace.last.owner[i])
            assert float(one.multiply_adds[0]) == float(trace.last.multiply_adds[i])


@torch.no_grad()
def test_thresholds_differ_between_pictures_and_meet_the_budget_over_several_batches() -> None:
    model = build("ours")
    site = image_site(model)
    generator = torch.Generator().manual_seed(2)
    batches = [torch.randn(4, 3, 16, 16, generator=generator) * scale for scale in (0.2, 1.0, 3.0)]
    method, note = AsViT().fitted(site, batches, Keep(share=0.45))
    assert "fitted" in note
    kept = []
    with method.applied(site, Keep(share=0.45)) as trace:
        for part in batches:
            model(part)
            kept.append(trace.last.retention(3))
    together = torch.cat(kept)
    assert float(together.mean()) == pytest.approx(0.45, rel=0.01)
    assert float(together.std()) > 0
    assert method.fitted(site, batches, Keep(share=0.2)) == (method, "")


@pytest.mark.parametrize("name", named("ours", "timm", "timm deit", "timm registers"))
@torch.no_grad()
def test_masked_and_shortened_are_the_same(name: str, pixels: torch.Tensor) -> None:
    """Dropped patches, masked in the plain model's later blocks, change nothing else."""
    model = build(name)
    site = image_site(model)
    fitted, _ = AsViT(layer=2).fitted(site, [pixels], Keep(share=0.5))
    for method in (ClassAttention(layer=2), RandomPatches(layer=2), fitted):
        with method.applied(site, Keep(share=0.5)) as trace:
            short = values(model, pixels)

        def masked(number: int, block: Any, args: Any, kwargs: Any, now: Any = trace.last) -> Any:
            mask = torch.zeros(3, site.prefix + 64)
            for layer, owner in now.owners.items():
                if layer <= number:
                    mask[:, site.prefix :][owner < 0] = -torch.inf
            return args, {**kwargs, "attn_mask": mask[:, None, None]}

        hooks = [
            block.register_forward_pre_hook(partial(masked, number), with_kwargs=True)
            for number, block in enumerate(model.blocks)
        ]
        torch.testing.assert_close(values(model, pixels), short, atol=1e-5, rtol=0)
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def test_merged_tokens_weigh_what_is_in_them(pixels: torch.Tensor) -> None:
    """ToMe of pictures whose patches are twins is exact: two equal tokens of size 1 are one of size 2."""
    model = build("ours")
    model.pos_embed.data[:, 1:] = model.pos_embed[:, 1:2]  # twins everywhere
    flat = pixels[:, :, :1, :1].expand(-1, -1, 16, 16)
    plain = values(model, flat)
    with ToMe(pairs=20).applied(image_site(model), Keep(share=0.5)) as trace:
        merged = values(model, flat)
    torch.testing.assert_close(merged, plain, atol=1e-5, rtol=0)
    now = trace.last
    assert [int(counts[0]) for counts in now.attended] == [64, 44, 24, 12, 6, 3]
    assert [int(counts[0]) for counts in now.going_on] == [44, 24, 12, 6, 3, 2]
    assert now.owner.min() >= 0
    assert now.owner.max() == 1
    assert len(now.kept()) == 64


def test_multiply_adds_by_hand(pixels: torch.Tensor) -> None:
    model = build("ours")
    with ToMe(pairs=8).applied(image_site(model), Keep(share=0.5)) as trace:
        model(pixels[:1])
    total = 64 * 16 * 3 * 2 * 2  # patch embedding
    for before in (65, 57, 49, 41, 33, 25):  # attention on these, MLP on eight fewer
        total += 4 * 16**2 * before + 2 * 16 * before**2 + 2 * 16 * 64 * (before - 8)
    assert float(trace.last.multiply_adds[0]) == total


def test_everything_or_nothing_passes_a_threshold(pixels: torch.Tensor) -> None:
    model = build("vit")
    plain = values(model, pixels)
    with prune(model, "as-vit", 0.5, thresholds=(0.0, 0.0, 0.0)) as trace:
        torch.testing.assert_close(values(model, pixels), plain, atol=1e-6, rtol=0)
    with prune(model, "as-vit", 0.5, thresholds=(1.0, 1.0, 1.0)) as trace:
        assert values(model, pixels).isfinite().all()
    assert [int(counts[0]) for counts in trace.last.attended] == [64, 64, 64, 0, 0, 0]


def test_stages() -> None:
    assert positions_of(12) == (4, 7, 10)
    assert positions_of(6) == (3, 4, 5)
    assert positions_of(24) == (8, 14, 20)
    assert positions_of(3) == ()
    counts = stage_counts(0.5, (4, 7, 10), 12, 196)
    assert sum(count * blocks for count, blocks in zip(counts, (3, 3, 2), strict=True)) / 8 / 196 == pytest.approx(
        0.5, abs=0.002
    )
    assert counts == sorted(counts, reverse=True)
    assert schedule_for(0.6, 0, 12, 196)[:3] == pytest.approx([13, 13, 13], abs=1)


class Convolutions(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Conv2d(3, 3, 3)


@pytest.mark.parametrize(
    ("model", "method", "keep", "settings", "message"),
    [
        ("cnn", "tome", 0.5, {}, "Convolutions: has no blocks of tokens"),
        ("vit", "fastv", 0.5, {}, "fastv needs a vision-language model"),
        ("vit", "tome+debias", 0.5, {}, r"\+debias is for methods of vision-language models"),
        ("vit", "tome", 0.5, {"layer": 6}, "layer 6: ViTModel has blocks 0 to 5"),
        ("vit", "tome", 0.5, {"pairs": 0}, "pairs: 0"),
        ("vit", "tome", 0.01, {}, "keep 0.01: merging half"),
        ("vit", "as-vit", 0.5, {"layer": 9}, "layer 9: ViTModel has blocks 0 to 5"),
        ("vit", "as-vit", 0.5, {"layer": 0}, "in front of 1 to 5"),
        ("vit", "as-vit", 0.5, {"thresholds": (0.1,)}, "1 for 3 places, 3, 4, 5"),
        ("vit", "as-vit", 0.5, {"blocks": (4, 4)}, "must be ascending"),
        ("vit", "random", 0.5, {"colour": 1}, "random has no setting 'colour'"),
        ("vit", "tome", 0.0, {}, "keep: 0.0"),
        ("vit", "tome", 1.5, {}, "keep: 1.5"),
    ],
)
def test_refusals(model: str, method: str, keep: float, settings: dict[str, Any], message: str) -> None:
    network = Convolutions() if model == "cnn" else build(model)
    with pytest.raises(UsageError, match=message), prune(network, method, keep, **settings):
        network(torch.zeros(1, 3, 16, 16))


@pytest.mark.packaged("open_clip")
def test_models_of_timm_that_are_not_pruned(pixels: torch.Tensor) -> None:
    for name, changes, message in (
        ("beit_base_patch16_224", {}, "Beit: has no blocks of tokens"),
        ("vit_base_patch16_siglip_224", {"num_classes": 0}, "has no class token"),
        ("vit_small_patch16_18x2_224", {}, "VisionTransformer: has no blocks of tokens"),
    ):
        with pytest.raises(UsageError, match=message), prune(timm(name, **changes), "tome", 0.5):
            pass
    whole = timm("vit_tiny_patch16_224", num_classes=0, global_pool="").eval()
    said = read_output(whole, whole(pixels))
    assert (said.values.shape, said.classes) == ((3, 16), False)
    check_read(whole)
    with pytest.raises(UsageError, match=r"gives its tokens as one \(avg\)"):
        check_read(timm("vit_tiny_patch16_224", num_classes=0, global_pool="avg"))
    with pytest.raises(UsageError, match="class and distillation"):
        check_read(timm("deit_tiny_distilled_patch16_224", num_classes=0))


@pytest.mark.parametrize("name", named("dinov2 classes", "timm scaled"))
def test_a_head_on_the_mean_of_patches_takes_pictures_one_by_one(name: str, pixels: torch.Tensor) -> None:
    model = build(name)
    with (
        torch.no_grad(), prune(model, "as-vit", 0.5), pytest.raises(UsageError, match="one picture at a time"),
    ):  # fmt: skip
        model(pixels)


def test_methods_of_image_models() -> None:
    assert {"random", "tome", "as-vit", "class-attention"} <= set(image_methods())
    assert isinstance(image_pruner_of("random", {"seed": 3}), RandomPatches)
