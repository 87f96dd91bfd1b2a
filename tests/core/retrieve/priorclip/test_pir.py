import pytest
import torch

from attn.core.retrieve.priorclip.pir import PIR, PIRConfig, believe

CONFIG = {"width": 16, "num_heads": 4, "filter_size": 5, "vision_width": 12, "text_width": 10, "conv_width": 9}


def pir(**changes):
    torch.manual_seed(0)
    return PIR(PIRConfig(**CONFIG | changes)).eval()


def text(batch=2, length=6):
    return torch.randn(batch, length, 10, generator=torch.Generator().manual_seed(1))


def test_with_masked_pads_a_caption_does_not_depend_on_the_longest_of_its_batch():
    short = text()
    longer = torch.cat([short, torch.randn(2, 3, 10)], 1)
    mask = torch.arange(9).expand(2, 9) < 6
    with torch.inference_mode():
        torch.testing.assert_close(pir().encode_text(longer, mask), pir().encode_text(short), rtol=0, atol=1e-5)
        unmasked = pir(mask_pads=False)
        difference = unmasked.encode_text(longer, mask) - unmasked.encode_text(short, torch.ones(2, 6, dtype=bool))
    assert difference.abs().max() > 1e-3


def test_filter_keeps_the_most_believed_tokens_in_order():
    net = pir()
    tokens, feature = torch.randn(3, 11, 12), torch.randn(3, 9)
    with torch.inference_mode():
        out = net.encode_image(tokens, feature)
    order = out.belief.argsort(descending=True)
    assert torch.equal(out.keep_index, order[:, :5])
    torch.testing.assert_close(out.belief.sum(1), torch.ones(3))
    torch.testing.assert_close(out.embedding.norm(dim=1), torch.ones(3))


def test_a_token_that_is_filtered_out_does_not_matter():
    net = pir()
    tokens, feature = torch.randn(1, 11, 12), torch.randn(1, 9)
    with torch.inference_mode():
        before = net.encode_image(tokens, feature)
        row = next(i for i in before.belief[0].argsort().tolist() if i)  # least believed, and not the pooled token
        changed = tokens.clone()
        changed[0, row] = changed[0, row] * 1.01
        after = net.encode_image(changed, feature)
    assert torch.equal(before.keep_index, after.keep_index)
    torch.testing.assert_close(before.embedding, after.embedding)


def test_one_query_row_is_the_official_repeated_query():
    net = pir()
    c, y = torch.randn(2, 1, 16), torch.randn(2, 5, 16)
    with torch.inference_mode():
        torch.testing.assert_close(net.img_ca[0](c, y), net.img_ca[0](c.expand(-1, 5, -1), y))


def test_copies_start_equal_and_are_independent():
    net = pir()
    assert torch.equal(net.img_sa[0].mhatt.linear_q.weight, net.img_sa[1].mhatt.linear_q.weight)
    with torch.no_grad():
        net.img_sa[0].mhatt.linear_q.weight.zero_()
    assert net.img_sa[1].mhatt.linear_q.weight.abs().sum() > 0


def test_believe_single_image_and_dtype():
    belief = believe(torch.randn(1, 7, 4, dtype=torch.float64), torch.randn(1, 1, 4, dtype=torch.float64))
    assert belief.shape == (1, 7)
    assert belief.dtype == torch.float64


def test_refused():
    with pytest.raises(ValueError, match="4 tokens are fewer than the filter_size of 5"):
        pir().encode_image(torch.randn(1, 4, 12), torch.randn(1, 9))
    with pytest.raises(ValueError, match="no multiple of 3 heads"):
        pir(num_heads=3)
