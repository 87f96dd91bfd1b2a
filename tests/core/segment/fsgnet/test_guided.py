import pytest
import torch

from attn.core.segment.fsgnet.guided import EPS, RADIUS, coefficients, guided_filter, resize, window_count, window_mean

SIZES = [((6, 6), (12, 12)), ((7, 9), (15, 18)), ((11, 6), (22, 13))]


def inputs(low=(7, 9), high=(15, 18), batch=2, channels=3, dtype=torch.float64, seed=0):
    """low, target, high, attention."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return (
        draw(batch, channels, *low),
        draw(batch, channels, *low),
        draw(batch, channels, *high),
        draw(batch, 1, *low).sigmoid(),
    )


def sums(x, radius):
    """The sum over the window cut at the border, cell by cell."""
    out = torch.zeros_like(x)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            rows, cols = slice(max(0, i - radius), i + radius + 1), slice(max(0, j - radius), j + radius + 1)
            out[..., i, j] = x[..., rows, cols].sum((2, 3))
    return out


def bilinear(x, size):
    """Corners aligned, from the definition: two interpolation matrices."""

    def along(length, new):
        place = torch.arange(new, dtype=x.dtype) * (length - 1) / (new - 1)
        return (1 - (place[:, None] - torch.arange(length, dtype=x.dtype)).abs()).clamp(min=0)

    return along(x.shape[2], size[0]) @ x @ along(x.shape[3], size[1]).T


def official(low, target, high, attention, radius=RADIUS, eps=EPS, batch_coupled=False):
    """Steps 7-11 as the specification writes them."""
    n = sums(torch.ones_like(low[:1, :1]), radius)
    a = attention.abs() + 1e-12
    t = a / a.sum() if batch_coupled else torch.stack([one / one.sum() for one in a])

    def m(x):
        return sums(x, radius) / n

    m_a, m_ax, m_ay, m_tax = m(a), m(a * low), m(a * target), m(t * a * low)
    m_aax, m_aaxx = m(a**2 * low * target), m(a**2 * low**2)
    slope = (m_aax - n * m_tax * m_ay) / ((m_aaxx - n * m_tax * m_ax).abs() + eps)
    offset = (m_ay - slope * m_ax) / m_a
    size = tuple(high.shape[2:])
    return bilinear(m(slope), size) * high + bilinear(m(offset), size)


@pytest.mark.parametrize("batch_coupled", [False, True])
@pytest.mark.parametrize(("low", "high"), SIZES, ids=str)
def test_matches_explicit_sums(low, high, batch_coupled):
    given = inputs(low, high)
    out = guided_filter(*given, batch_coupled=batch_coupled)
    torch.testing.assert_close(out, official(*given, batch_coupled=batch_coupled), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("radius", "eps"), [(1, 1e-2), (2, 1e-4), (3, 0.5)])
def test_radius_and_eps(radius, eps):
    given = inputs((9, 8), (18, 17))
    out = guided_filter(*given, radius=radius, eps=eps)
    torch.testing.assert_close(out, official(*given, radius=radius, eps=eps), rtol=1e-10, atol=1e-10)


def test_where_the_denominator_is_negative():
    """A guide that is low where the attention is high makes |M_aaxx - N M_tax M_ax| need its bars."""
    _, target, high, attention = inputs((6, 6), (12, 12), channels=1)
    low, attention = torch.full_like(target, 3), torch.zeros_like(attention)
    attention[..., 2:4, 1:5] = 1
    attention[..., 2, 2], low[..., 2, 2] = 8, 1
    count, t = window_count((6, 6), like=low), attention / attention.sum((1, 2, 3), keepdim=True)
    inner = window_mean((attention * low) ** 2) - count * window_mean(t * attention * low) * window_mean(
        attention * low
    )
    assert inner.min() < -2 * EPS
    out = guided_filter(low, target, high, attention)
    torch.testing.assert_close(out, official(low, target, high, attention), rtol=1e-10, atol=1e-10)


def test_float32_is_close_to_float64():
    given = inputs((33, 40), (67, 80))
    out = guided_filter(*(x.float() for x in given))
    torch.testing.assert_close(out.double(), guided_filter(*given), rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (6, 7)])
def test_windows_of_any_map(size):
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    count = window_count(size, 2, like=x)
    torch.testing.assert_close(count, sums(torch.ones(1, 1, *size, dtype=torch.float64), 2), rtol=0, atol=0)
    torch.testing.assert_close(window_mean(x, 2) * count, sums(x, 2))


def test_images_are_filtered_alone_unless_coupled():
    given = inputs(batch=3)
    others = [x.clone() for x in given]
    others[3][1:] = others[3][1:] * 0.1  # the other images' attention
    for coupled, touched in ((False, False), (True, True)):
        a = guided_filter(*given, batch_coupled=coupled)
        b = guided_filter(*others, batch_coupled=coupled)
        assert torch.equal(a[0], b[0]) is not touched
    whole = guided_filter(*given)
    for i in range(3):
        torch.testing.assert_close(whole[i : i + 1], guided_filter(*(x[i : i + 1] for x in given)))


def test_one_image_is_the_same_coupled_or_not():
    given = inputs(batch=1)
    torch.testing.assert_close(guided_filter(*given), guided_filter(*given, batch_coupled=True))


def test_sign_of_the_attention_is_ignored():
    low, target, high, attention = inputs()
    assert torch.equal(guided_filter(low, target, high, attention), guided_filter(low, target, high, -attention))


def test_flat_guide_gives_a_smooth_copy_of_the_target():
    """A guide of zeros has slope 0: what is left is b, twice averaged (pitfall 6)."""
    _, target, high, _ = inputs()
    out = guided_filter(torch.zeros_like(target), target, high, torch.ones_like(target[:, :1]))
    torch.testing.assert_close(out, resize(window_mean(window_mean(target)), (15, 18)))


def test_attention_of_zero_stays_finite():
    """M_a is 1e-12 where the gate saturates (pitfall 6)."""
    low, target, high, attention = (x.float() for x in inputs())
    out = guided_filter(low, target, high, torch.zeros_like(attention))
    assert out.isfinite().all()
    attention[:, :, :, :5] = 0
    assert guided_filter(low, target, high, attention).isfinite().all()


def test_constant_target_comes_back():
    low, target, high, _ = inputs()
    ones = torch.ones_like(target[:, :1])
    slope, offset = coefficients(low, torch.full_like(target, 3), ones)
    torch.testing.assert_close(slope * window_mean(low) + offset, torch.full_like(low, 3))
    assert guided_filter(low, torch.zeros_like(target), high, ones).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    """Values of 300: their squares overflow float16 (pitfall 7)."""
    low, target, high, attention = (x.to(dtype) for x in inputs())
    low, high = 300 * low, 300 * high
    rounded = [x.float() for x in (low, target, high, attention)]
    out = guided_filter(low, target, high, attention)
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert torch.equal(out, guided_filter(*rounded).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    given = [x.float() for x in inputs()]
    with torch.autocast("cpu", dtype):
        out = guided_filter(*given)
    assert torch.equal(out, guided_filter(*given))


def test_mixed_dtypes_follow_the_high_guide():
    """Under autocast the gate may be float32 and the maps bfloat16."""
    low, target, high, attention = (x.float() for x in inputs())
    out = guided_filter(low.bfloat16(), target, high.bfloat16(), attention)
    assert out.dtype == torch.bfloat16
    assert torch.equal(
        out, guided_filter(low.bfloat16().float(), target, high.bfloat16().float(), attention).bfloat16()
    )


@pytest.mark.parametrize("batch_coupled", [False, True])
def test_gradients(batch_coupled):
    given = [x.requires_grad_() for x in inputs((6, 6), (7, 9), channels=1)]
    assert torch.autograd.gradcheck(
        lambda *x: guided_filter(*x, batch_coupled=batch_coupled), given, fast_mode=True, atol=1e-6
    )


def test_empty_batch():
    low, target, high, attention = (x[:0] for x in inputs())
    assert guided_filter(low, target, high, attention).shape == (0, 3, 15, 18)


def test_refuses_what_does_not_fit():
    low, target, high, attention = inputs()
    with pytest.raises(ValueError, match="do not fit"):
        guided_filter(low, target[:, :2], high, attention)
    with pytest.raises(ValueError, match="do not fit"):
        guided_filter(low, target, high[:, :2], attention)
    with pytest.raises(ValueError, match="do not fit"):
        guided_filter(low, target, high[:1], attention)
    with pytest.raises(ValueError, match=r"attention is \[2, 3, 7, 9\], must be \[2, 1, 7, 9\]"):
        guided_filter(low, target, high, low)
    with pytest.raises(ValueError, match="larger than the window of 5"):
        guided_filter(low[..., :5], target[..., :5], high, attention[..., :5])
    with pytest.raises(ValueError, match="larger than the window of 7"):
        guided_filter(low, target, high, attention, radius=3)


@pytest.mark.parametrize("size", [(3, 4), (7, 9), (5, 5), (14, 2)])
def test_resize_aligns_corners(size):
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    torch.testing.assert_close(resize(x, size), bilinear(x, size))
    assert resize(x, (7, 9)) is x
