"""Parity of the attention operators with their official implementations: every golden file, every quantity."""

import importlib

import pytest

from attn.core.attention import golden as parity

FILES = [
    ("hip", "prefill_bq32_bk2"), ("hip", "prefill_minmax_group8"), ("hip", "tail_ragged"),
    ("hisa", "indexer_module"), ("hisa", "pipeline_B32"), ("hisa", "pipeline_packed_ragged"),
    ("superlinear", "decode_pos300"), ("superlinear", "n2_sw1_k2"), ("superlinear", "n2_sw2_k3_fwd"),
    ("superlinear", "p054_sw1_k3"), ("superlinear", "tables"),
    ("lightning", "op_l0"), ("lightning", "op_l12_ragged"), ("lightning", "op_lastlayer_6heads"),
    ("lightning", "slopes"), ("lightning", "srmsnorm"),
    ("flux-attention", "router"), ("flux-attention", "streaming_triangle"), ("flux-attention", "xattn_ragged"),
    ("flux-attention", "xattn_single_chunk"),
    ("rectified-spaattn", "video_only"), ("rectified-spaattn", "video_text"),
    ("biformer", "attention_lepe"), ("biformer", "bra"), ("biformer", "bra_autopad"), ("biformer", "bra_nchw"),
    ("biformer", "tiny_model"),
    ("halonet", "halo_basic"), ("halonet", "halo_basic_masked"), ("halonet", "halo_scalepos_bias"),
    ("halonet", "halo_scalepos_bias_masked"), ("halonet", "halo_stride2"), ("halonet", "halo_stride2_avg"),
    ("sparsifiner", "attention_eval"), ("sparsifiner", "attention_recon"), ("sparsifiner", "losses"),
    ("sparsifiner", "tiny_model"),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "stem"), FILES, ids=[f"{folder}/{stem}" for folder, stem in FILES])
def test_matches_the_official_implementation(folder, stem):
    checks = list(parity.check(folder, stem))
    assert checks
    wrong = [f"{c.quantity}: error {c.error:.2e}, tolerance {c.tolerance:.0e}" for c in checks if not c.ok]
    assert not wrong, "\n".join(wrong)


def test_every_golden_file_is_read():
    assert sorted(parity.files()) == sorted(FILES)
    assert sorted(
        (p.parent.name, p.stem) for f in parity.vectors() for p in (parity.golden_dir() / f).glob("*.npz")
    ) == (sorted(FILES))


UNREAD = {
    "seed",  # how the vectors were drawn
    "mask_keepflags",  # an official flag that we do not have
}


def test_every_golden_array_is_read(monkeypatch):
    """What the official code gave and nobody compares is no evidence."""
    left, stored = {}, parity.stored

    class Reading(dict):
        def __getitem__(self, name):
            self.left.discard(name)
            return super().__getitem__(name)

        def items(self):  # asked for by prefix: weights of a module, slopes of so many heads
            self.left -= {name for name in self if name.startswith(("p", "h"))}
            return super().items()

    def reading(folder, stem):
        data = Reading(stored(folder, stem))
        data.left = left.setdefault((folder, stem), set(data) - UNREAD)
        return data

    for module in [
        parity,
        *(importlib.import_module(its.check.partition(":")[0]) for its in parity.vectors().values()),
    ]:
        if hasattr(module, "stored"):
            monkeypatch.setattr(module, "stored", reading)
    for folder, stem in FILES:
        for _ in parity.check(folder, stem):
            pass
    assert {file: sorted(names) for file, names in left.items() if names} == {}
