"""Sparsifiner's modules: prediction, training stages, pruning in both forms, cost."""

import copy

import pytest
import torch

from attn.core.attention.sparsifiner.predictor import ConnectivityPredictor, Rules
from attn.core.nets.sparsifiner_layers import SparsifinerAttention, TokenSequence, attention_multiply_adds, kept_tokens
from attn.core.nets.sparsifiner_losses import distillation_loss, reconstruction_loss, stage_parameters
from attn.core.nets.sparsifiner_vit import SparsifinerConfig, SparsifinerViT, token_schedule

TINY = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 24, "depth": 4, "num_heads": 3, "mlp_ratio": 2.0,
        "keep_ratio": 0.3, "reduce_n": 3}  # fmt: skip


def tiny(seed=0, **changes):
    """A model whose attention is far from uniform."""
    torch.manual_seed(seed)
    model = SparsifinerViT(SparsifinerConfig(**{**TINY, "rules": Rules(topk_coef=3), **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model


@pytest.fixture
def image():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_tokens_taken_out_give_the_same_classes_as_zero_vectors(image):
    model = tiny(token_keep={0: 0.8, 1: 0.7, 2: 0.4})
    zeros, short = model(image), model(image, form="short", exact_code=True)
    assert (zeros.logits - short.logits).abs().max() < 1e-5
    assert torch.equal(zeros.live, short.live)
    assert short.tokens.shape == (3, 7, 24)  # ceil(0.4 x 16)
    assert (zeros.tokens[zeros.live].view(3, 7, 24) - short.tokens).abs().max() < 1e-5
    cleaner = model(image, form="short")
    assert (zeros.logits - cleaner.logits).abs().max() > 1e-4  # pruned tokens do weigh in the official code


@torch.no_grad()
def test_without_pruning_both_forms_are_one(image):
    model = tiny()
    zeros, short = model(image), model(image, form="short")
    assert torch.equal(zeros.logits, short.logits)
    assert zeros.live.all()


@torch.no_grad()
def test_pruned_tokens_are_never_keys_of_patches(image):
    result = tiny(token_keep={0: 0.5})(image)
    gone = torch.cat([torch.zeros(3, 1, dtype=torch.bool), ~result.live], 1)
    for record in result.layers[1:]:
        assert not record.prediction.mask[:, :, 1:].transpose(2, 3)[gone[:, None].expand(-1, 3, -1)].any()
    assert result.live.sum(1).tolist() == [8, 8, 8]
    # the budget shrinks with the tokens, and is worked out anew in every call (pitfall 2)
    assert (result.layers[1].prediction.mask[:, :, 1:].sum(-1) == 6).all()
    fewer = tiny(token_keep={0: 0.25})(image)
    assert (fewer.layers[1].prediction.mask[:, :, 1:].sum(-1) == 4).all()
    assert (fewer.layers[0].prediction.mask[:, :, 1:].sum(-1) == 6).all()


def test_kept_tokens_are_those_the_class_token_looks_at():
    prob = torch.zeros(1, 2, 5, 5)
    prob[0, :, 0] = torch.tensor([[0.9, 0.0, 0.3, 0.1, 0.2], [0.9, 0.1, 0.0, 0.3, 0.3]])
    assert kept_tokens(prob, 2).tolist() == [[0, 3, 4]]
    live = torch.tensor([[True, True, True, False, True]])
    assert kept_tokens(prob, 2, live).tolist() == [[0, 2, 4]]
    assert kept_tokens(prob, 9).tolist() == [[0, 1, 2, 3, 4]]


def test_keeping_everything_is_a_plain_transformer(image):
    model = tiny(keep_ratio=1.0)
    with torch.no_grad():
        sparse, dense = model(image), model(image, reconstruct=True)
    assert (sparse.logits - dense.logits).abs().max() < 1e-6
    assert all(record.prediction.mask.all() for record in sparse.layers)
    assert all(record.prediction.mask is None for record in dense.layers)


# --- training -------------------------------------------------------------------------------------------------------


def test_stage_1_reaches_the_predictor_through_the_prediction_alone():
    torch.manual_seed(0)
    layer = SparsifinerAttention(24, 3, 17, reduce_n=3)
    predictor = dict(layer.mask_predictor.named_parameters())
    out, record = layer(TokenSequence(torch.randn(2, 17, 24)), keep_ratio=0.3, reconstruct=True)
    loss = reconstruction_loss([record.prediction.approx], [record.prob.detach()])
    grads = torch.autograd.grad(loss, list(predictor.values()), retain_graph=True)
    assert {name for name, grad in zip(predictor, grads, strict=True) if grad.abs().max() > 0} == {
        "proj_n", "proj_back_n", "proj_c_q.weight", "proj_c_q.bias", "proj_c_k.weight", "proj_c_k.bias",
    }  # fmt: skip
    assert (record.prediction.approx < 0).any()  # the basis is signed
    grads = torch.autograd.grad(out.sum(), list(predictor.values()), allow_unused=True)
    assert all(grad is None for grad in grads)


def test_stage_2_leaves_the_predictor_without_gradients(image):
    model = tiny()
    loss = model(image).logits.sum()
    predictors = [p for _, p in stage_parameters(model, "attn_recon")]
    assert all(g is None for g in torch.autograd.grad(loss, predictors, allow_unused=True, retain_graph=True))
    backbone = dict(stage_parameters(model, "cls_distill"))
    assert len(predictors) + len(backbone) == len(list(model.parameters()))
    grad = torch.autograd.grad(loss, backbone["blocks.0.attn.qkv.weight"])[0]
    assert grad.abs().max() > 0


def test_stage_1_teaches_the_predictor_which_keys_matter():
    torch.manual_seed(0)
    model = tiny(depth=1)
    images = torch.randn(16, 3, 32, 32)
    with torch.no_grad():
        truth = model(images, reconstruct=True).layers[0].prob
    wanted = torch.zeros_like(truth, dtype=torch.bool).scatter(-1, truth.topk(6).indices, True)[:, :, 1:]

    def recall():
        with torch.no_grad():
            mask = model(images).layers[0].prediction.mask[:, :, 1:]
        return ((mask & wanted).sum() / wanted.sum()).item()

    torch.nn.init.trunc_normal_(model.blocks[0].attn.mask_predictor.proj_back_n, std=0.02)
    before = recall()
    optimiser = torch.optim.AdamW([p for _, p in stage_parameters(model, "attn_recon")], lr=2e-2)
    for _ in range(60):
        approx = model(images, reconstruct=True).layers[0].prediction.approx
        optimiser.zero_grad()
        reconstruction_loss([approx], [truth]).backward()
        optimiser.step()
    assert recall() > max(before, 6 / 17) + 0.15  # 6 of 17 keys: chance


def test_reconstruction_loss_is_a_sum_and_wants_as_many_layers():
    approx, teacher = torch.zeros(2, 1, 3, 4), torch.ones(2, 1, 4, 4)
    assert reconstruction_loss([approx, approx], [teacher, 2 * teacher]).item() == pytest.approx(0.01 * (24 + 96) / 2)
    with pytest.raises(ValueError, match="1 predicted layers and 2"):
        reconstruction_loss([approx], [teacher, teacher])


def test_distillation_loss_parts():
    logits, tokens = torch.randn(4, 5), torch.randn(4, 6, 8)
    labels = torch.tensor([0, 1, 2, 3])
    same = distillation_loss(logits, tokens, labels, logits, tokens)
    assert same.cls_distill.abs() < 1e-6
    assert same.token_distill == 0
    assert same.total.item() == pytest.approx(same.cls.item(), abs=1e-6)
    soft = distillation_loss(logits, tokens, torch.nn.functional.one_hot(labels, 5).float(), logits, tokens)
    assert torch.allclose(soft.cls, same.cls)
    live = torch.zeros(4, 6, dtype=torch.bool)
    live[:, 2] = True
    other = tokens.clone()
    other[:, 2] += 2
    other[:, 3] += 9  # pruned: does not count
    assert distillation_loss(logits, other, labels, logits, tokens, live=live).token_distill.item() == pytest.approx(
        2.0
    )


# --- the predictor --------------------------------------------------------------------------------------------------


def test_predictor_of_the_worked_example():
    predictor = ConnectivityPredictor(197, 64)
    assert sum(p.numel() for p in predictor.parameters()) == 16768
    shared = ConnectivityPredictor(197, 64, share_basis=True)
    assert sum(p.numel() for p in shared.parameters()) == 16768 - 197 * 32
    assert torch.equal(shared.basis(Rules(basis_threshold=0.0), torch.float32), shared.proj_n.abs().T)


def test_thresholds_keep_what_is_strictly_above():
    predictor = ConnectivityPredictor(6, 4, reduce_n=2)
    with torch.no_grad():
        predictor.proj_back_n.copy_(torch.tensor([[0.02, -0.5, 0.03]]).expand(6, 3))
    basis = predictor.basis(Rules(basis_threshold=0.03), torch.float32)
    assert basis[:, 0].tolist() == [0.0, 0.5, 0.0]
    assert predictor.basis(Rules(), torch.float32, reconstruct=True)[1, 0] == -0.5
    q = torch.randn(1, 1, 6, 4)
    found = predictor(q, q, Rules(topk_coef=0, coef_threshold=0.9))
    assert not found.coef.any()  # three coefficients near 1/3
    rules = Rules(topk_coef=0, coef_threshold=0.0, score_threshold=0.1)
    mask = predictor(q, q, rules).mask
    assert torch.equal(mask[:, :, 1:], predictor(q, q, rules).approx > 0.1)


def test_resizing_interpolates_patches_and_keeps_the_class_token():
    torch.manual_seed(0)
    predictor = ConnectivityPredictor(17, 8, reduce_n=3)
    same = predictor.resized((4, 4), (4, 4))
    for name, parameter in predictor.state_dict().items():
        assert torch.allclose(same.state_dict()[name], parameter, atol=1e-7), name
    with torch.no_grad():
        predictor.proj_n[1:] = torch.arange(4.0)[:, None].expand(4, 4).reshape(16, 1)  # rows of the map
    larger = predictor.resized((4, 4), (8, 6))
    assert larger.num_tokens == 49
    assert torch.equal(larger.proj_n[0], predictor.proj_n[0])
    column = larger.proj_n[1:, 0].view(8, 6)
    assert torch.allclose(column, column[:, :1].expand(8, 6))
    assert torch.allclose(column[2:6, 0], torch.tensor([0.75, 1.25, 1.75, 2.25]))
    q = torch.randn(1, 3, 49, 8)
    assert larger(q, q, Rules()).mask.shape == (1, 3, 49, 49)
    with pytest.raises(ValueError, match="17 tokens are not a 5x5 map"):
        predictor.resized((5, 5), (8, 8))


# --- cost and configuration -----------------------------------------------------------------------------------------


def test_multiply_adds_by_hand():
    # dense: 2 x 17^2 x 24. Sparse, a head: reduce q and k 2 x 17 x 8 x 4, pool and score 2 x 17 x 4 x 5, guess 17 x 3 x
    # 10; attention 2 x 17 x 6 x 24 over all heads
    found = attention_multiply_adds(17, 24, 3, channels=4, rank=5, topk_coef=3, basis_row=10.0, budget=6)
    assert found == {"dense": 13872, "sparse": 3 * (1088 + 680 + 510) + 4896}
    model = tiny(depth=2)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.mask_predictor.proj_back_n.zero_()
            block.attn.mask_predictor.proj_back_n[:10] = 1.0
    assert model.multiply_adds() == {"dense": 2 * 13872, "sparse": 2 * (3 * (1088 + 680 + 510) + 4896)}


def test_a_keep_ratio_for_every_layer(image):
    model = tiny(keep_ratio=(1.0, 0.5, 0.3, 0.1))
    with torch.no_grad():
        masks = [record.prediction.mask for record in model(image).layers]
    assert [int(mask[0, 0, 1].sum()) for mask in masks] == [17, 9, 6, 2]


def test_token_schedule_of_the_paper():
    assert token_schedule(0.7) == pytest.approx({3: 0.7, 6: 0.49, 9: 0.343})


def test_weights_of_a_plain_transformer_load():
    model, other = tiny(seed=0), tiny(seed=1)
    state = {name: p for name, p in other.state_dict().items() if "mask_predictor" not in name}
    predictors = copy.deepcopy(model.blocks[0].attn.mask_predictor.state_dict())
    model.load_backbone(state)
    assert torch.equal(model.head.weight, other.head.weight)
    assert torch.equal(model.blocks[0].attn.mask_predictor.proj_n, predictors["proj_n"])
    del state["norm.bias"]
    with pytest.raises(ValueError, match=r"missing \['norm.bias'\]"):
        model.load_backbone(state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "multiple of num_heads"),
        ({"image_size": 33}, "patch_size"),
        ({"keep_ratio": (0.5, 0.5)}, "2 entries for 4 layers"),
        ({"token_keep": {7: 0.5}}, "layer 7"),
        ({"token_keep": {1: 0.0}}, "share 0.0"),
        ({"rules": Rules(class_token=False)}, "has a class token"),
    ],
)
def test_bad_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        SparsifinerConfig(**{**TINY, **changes})


def test_bad_images(image):
    model = tiny()
    with pytest.raises(ValueError, match=r"the model takes \[batch, 3, 32, 32\]"):
        model(image[:, :, :24])
    with pytest.raises(ValueError, match="'zeros' or 'short'"):
        model(image, form="long")
