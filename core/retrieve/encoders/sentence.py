"""Text encoders in folders: the layout of sentence-transformers (modules.json), or a plain folder of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import did_you_mean
from ...io.kinds import open_regular
from ...io.weights import read_tensors
from ...models import hf
from ...models.files import fingerprint, read_json, weight_files
from ...models.load import load_folder
from ...models.loaded import Loaded
from ...options import OptionError
from .base import Encoder, Fingerprint
from .kind import CONFIG, EncoderKind
from .text import POOLINGS, TextEncoder

MODULES = "modules.json"
_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "Identity": nn.Identity, "Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU, "SiLU": nn.SiLU, "Sigmoid": nn.Sigmoid,
}  # fmt: skip
_LEGACY = {
    "cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "lasttoken": "lasttoken",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "weightedmean_tokens": "weightedmean",
}  # fmt: skip


class Dense(nn.Module):
    """A linear layer with an activation, as sentence-transformers saves it."""

    def __init__(self, inner: int, outer: int, bias: bool, activation: str, residual: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inner, outer, bias=bias)
        self.activation = _ACTIVATIONS[activation]()
        self.short: nn.Module | None = None
        if residual and inner == outer:
            self.short = nn.Identity()
        elif residual:
            self.short = self.residual = nn.Linear(inner, outer, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inner] -> [B, outer]."""
        out: Tensor = self.activation(self.linear(x))
        return out if self.short is None else out + self.short(x)


def load_plain(
    name: str, folder: Path, *, device: torch.device, dtype: torch.dtype, temperature: float, max_tokens: int | None,
    pooling: str | None,
) -> TextEncoder:  # fmt: skip
    """A folder of transformers; ``pooling`` None is the mean, or the last token of a decoder.

    Raises
    ------
    UsageError
        If something is missing or unknown.
    """
    loaded = load_folder(folder, "text", device=device, dtype=dtype)
    pooling = pooling or ("lasttoken" if _is_decoder(loaded.model, loaded.model.config) else "mean")
    return _encoder(name, folder, loaded, device, temperature, max_tokens, None, _checked(pooling))


def load_sentence(
    name: str, folder: Path, *, device: torch.device, dtype: torch.dtype, temperature: float, max_tokens: int | None,
    pooling: str | None,
) -> Encoder:  # fmt: skip
    """A folder of sentence-transformers: transformer, pooling, dense layers, normalisation, prompts, maximum length.

    Raises
    ------
    UsageError
        If something is missing, or a module of another kind is in the chain.
    """
    chain = [
        (str(module["type"]).rsplit(".", 1)[-1], folder / module["path"]) for module in read_json(folder / MODULES)
    ]
    kinds = [kind for kind, _ in chain]
    if kinds[:1] == ["CLIPModel"]:
        from .dual import load_dual

        return load_dual(name, chain[0][1], device=device, dtype=dtype, temperature=temperature, max_tokens=max_tokens)
    if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= {"Dense", "Normalize"}:
        raise OptionError(
            f"{{model}}: {folder} is a chain of {', '.join(kinds)}; attn reads Transformer, Pooling, Dense, Normalize."
        )
    place = chain[0][1]
    settings: dict[str, Any] = next((read_json(file) for file in _settings(place)), {})
    loaded = load_folder(place, "text", device=device, dtype=dtype)
    dense = [_dense(where) for kind, where in chain if kind == "Dense"]
    return _encoder(
        name, place, loaded, device, temperature, max_tokens, settings.get("max_seq_length"),
        _checked(pooling) if pooling else _pooling(chain[1][1]), dense, [w for k, w in chain if k == "Dense"],
        _prompts(folder), bool(settings.get("do_lower_case")),
    )  # fmt: skip


def _encoder(
    name: str, folder: Path, loaded: Loaded, device: torch.device, temperature: float,
    max_tokens: int | None, own: int | None, pooling: str, dense: list[Dense] | None = None,
    dense_folders: list[Path] | None = None, prompts: Mapping[str, str] | None = None, lower: bool = False,
) -> TextEncoder:  # fmt: skip
    """The parts put together."""
    model, config, tokeniser = loaded.model, loaded.model.config, loaded.processor.tokeniser
    longest = tokeniser.model_max_length if tokeniser.model_max_length < 10**6 else None  # 1e30 stands for no limit
    limit, warnings = hf.limit_tokens(name, max_tokens, own or longest, hf.positions(config, tokeniser))
    files = [file for place in (folder, *(dense_folders or [])) for file in weight_files(place)]
    width = _hidden_size(config) * len(pooling.split("+"))
    dim = dense[-1].linear.out_features if dense else width
    mark = Fingerprint(name, fingerprint(files), dim, pooling, True, temperature, limit, None)
    head = nn.Sequential(*(dense or [])).to(device).eval()
    return TextEncoder(model, tokeniser, mark, device, head, prompts or {}, lower, tuple(warnings))


def _settings(folder: Path) -> list[Path]:
    """Files that hold the maximum length: the name depends on the first model the package had."""
    return sorted(folder.glob("sentence_*_config.json"))


def _pooling(folder: Path) -> str:
    """Of 1_Pooling/config.json, in the old form (one flag per kind) or the new one."""
    config = read_json(folder / "config.json")
    if not config.get("include_prompt", True):
        raise OptionError(f"{{model}}: {folder} leaves its prompts out of the pooling, which attn does not do.")
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in _LEGACY.items() if config.get(f"pooling_mode_{flag}")]
    return _checked("+".join([modes] if isinstance(modes, str) else modes))


def _checked(pooling: str) -> str:
    for name in pooling.split("+"):
        if name not in POOLINGS:
            hint = did_you_mean(name, POOLINGS) or f"Use one of {', '.join(POOLINGS)}."
            raise OptionError(f"{{pooling}}: no pooling named {name!r}. {hint}")
    return pooling


def _dense(folder: Path) -> Dense:
    """A dense layer with its weights."""
    config = read_json(folder / "config.json")
    activation = str(config.get("activation_function", "torch.nn.Tanh")).rsplit(".", 1)[-1]
    if activation not in _ACTIVATIONS or config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise OptionError(f"{{model}}: {folder} is a dense layer that attn does not know (activation {activation}).")
    layer = Dense(
        config["in_features"], config["out_features"], config.get("bias", True), activation,
        config.get("use_residual", False),
    )  # fmt: skip
    file = weight_files(folder)[0]
    try:
        if file.suffix == ".safetensors":
            state = read_tensors(file)[1]
        else:
            with open_regular(file) as data:
                state = torch.load(data, map_location="cpu", weights_only=True)
        layer.load_state_dict(state)
    except Exception as error:  # of any kind: pickle, safetensors, shapes
        raise OptionError(
            f"{{model}}: {file} does not hold the layer that its config.json describes ({error})."
        ) from None
    return layer


def _prompts(folder: Path) -> dict[str, str]:
    """What goes in front of documents and of queries, by the names that sentence-transformers documents for them."""
    file = folder / "config_sentence_transformers.json"
    config = read_json(file) if file.exists() else {}
    prompts = config.get("prompts") or {}
    document = next((prompts[key] for key in ("document", "passage", "corpus") if prompts.get(key)), "")
    return {"document": document, "query": prompts.get("query") or ""}


def _hidden_size(config: Any) -> int:
    """Width of the hidden states, under the name that the family uses."""
    return int(next(getattr(config, key) for key in ("hidden_size", "d_model", "dim") if hasattr(config, key)))


def _is_decoder(model: nn.Module, config: Any) -> bool:
    """Whether a token sees only those before it."""
    causal = [
        m.is_causal for m in model.modules() if type(m).__name__.endswith("Attention") and hasattr(m, "is_causal")
    ]
    return bool(causal and all(causal)) and not config.is_encoder_decoder


SENTENCE = EncoderKind(lambda source: source.holds(MODULES), load_sentence, files=(MODULES,), pools=True)
PLAIN = EncoderKind(lambda source: source.holds(CONFIG), load_plain, files=(CONFIG,), pools=True)
