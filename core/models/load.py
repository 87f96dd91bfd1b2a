"""One door to other people's models: a name becomes a model, what prepares its input, its family and a fingerprint.

A name is that of an embedded model, a folder, or a Hugging Face id that is on this machine; a download only where it is
allowed.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ..device import pick_device, pick_dtype
from ..errors import AttnError, did_you_mean
from ..network import network
from ..options import OptionError
from ..text import reason_of
from . import hf
from .bert import load_bert
from .convolutional import FAMILY as CONVOLUTIONAL
from .convolutional import SUFFIXES as WEIGHTS
from .convolutional import load_convolutional, load_convolutional_file
from .embedded import EMBEDDED
from .files import check_regular, fingerprint, read_json, weight_files
from .footprint import check_fits
from .images import IMAGENET, ImagePreparation
from .loaded import Loaded, Processor
from .openclip import CONFIG as OPEN_CLIP
from .openclip import load_openclip
from .timm import load_timm
from .visual import FRAMES, VISUAL

Task = Literal["text", "causal", "vision", "classifier", "image-text", "vision-language"]
TASKS: tuple[str, ...] = get_args(Task)
_CLASSES = {
    "text": "AutoModel", "causal": "AutoModelForCausalLM", "vision": "AutoModel", "image-text": "AutoModel",
    "classifier": "AutoModelForImageClassification", "vision-language": "AutoModelForImageTextToText",
}  # fmt: skip
_TOWERS = {
    "clip": "CLIPVisionModel", "clip_vision_model": "CLIPVisionModel",
    "siglip": "SiglipVisionModel", "siglip_vision_model": "SiglipVisionModel",
}  # fmt: skip
"""``model_type`` of two towers -> the class that is the one for images."""
_STRETCH = "interpolate_pos_encoding"
_PREPROCESSOR = "preprocessor_config.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "*.bin"]
_HUB_SKIP = ["onnx/*", "openvino/*", "coreml/*", "tf_*", "flax_*", "rust_*", "*training_args.bin"]


def load_model(
    name: str, task: Task, *, device: torch.device | str = "cpu", dtype: torch.dtype | str = "float32",
    allow_download: bool = False,
) -> Loaded:  # fmt: skip
    """A model with what prepares its input.

    Parameters
    ----------
    name : str
        Of an embedded model (``attn.core.models.embedded``), a folder (transformers, timm, open_clip), or a Hugging
        Face id that is on this machine; of a classifier also a file of weights of AlexNet or VGG (``convolutional``).
    task : str
        ``"text"``: hidden states of texts. ``"causal"``: a language model. ``"vision"``: hidden states of images; of a
        model with two towers, the one for images. ``"classifier"``: the same with the head of its classes, where the
        folder has one; else as ``"vision"``. ``"image-text"``: both towers. ``"vision-language"``: answers about
        images.
    device : torch.device or str
    dtype : torch.dtype or str
    allow_download : bool
        Ask the hub for an id that is not on this machine. Without it nothing leaves the machine.

    Raises
    ------
    UsageError
        If there is no such model, it is none for the task, not complete, or something it needs is not installed: in one
        line, with how to get it.
    """
    if task not in TASKS:
        raise ValueError(f"no task named {task!r}; there are {', '.join(TASKS)}")
    place = pick_device(device) if isinstance(device, str) else device
    kind = pick_dtype(dtype) if isinstance(dtype, str) else dtype
    if name in EMBEDDED:
        return _embedded(name, task, place, kind)
    if task == "classifier" and (file := path_of(name)).suffix in WEIGHTS and file.is_file():
        return load_convolutional_file(file, device=place, dtype=kind)
    folder = find_folder(name, _possible(name, task), allow_download=allow_download)
    return load_folder(folder, task, device=place, dtype=kind)


def find_folder(name: str, hint: str, *, allow_download: bool = False) -> Path:
    """The folder of a model: one that is named, or the place of a Hugging Face id.

    Parameters
    ----------
    name : str
    hint : str
        What can be given: an error says it in the end.
    allow_download : bool

    Raises
    ------
    UsageError
        If there is none.
    """
    path = path_of(name)
    if path.is_dir():
        return path
    if not is_hub_id(name):
        raise OptionError(f"{{model}}: no model named {name!r}, and no folder of that name. {hint}")
    hf.transformers()
    from huggingface_hub import snapshot_download

    wanted: dict[str, Any] = {"allow_patterns": _HUB_FILES, "ignore_patterns": _HUB_SKIP}
    try:
        with network():
            return Path(snapshot_download(name, local_files_only=True, **wanted))
    except Exception:  # not in the cache, whatever the package calls that
        pass
    if not allow_download:
        raise OptionError(
            f"{{model}}: {name} is no folder, and not on this machine. {hint} "
            "{allow_download} asks the Hugging Face hub for an id."
        )
    try:
        with network(allowed=True):
            return Path(snapshot_download(name, **wanted))
    except Exception as error:  # no network, no such id, no permission, no space
        raise OptionError(
            f"{{model}}: {name} is no folder and not on this machine, and it could not be downloaded "
            f"({reason_of(error)}). {hint}"
        ) from None


def path_of(name: str) -> Path:
    """What the user typed as a path. Raises ``UsageError`` where it can be none."""
    try:
        path = Path(name).expanduser()
        path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL byte, a user that does not exist
        raise OptionError(f"{{model}}: {name[:80]!r} cannot be a path ({error}).") from None
    return path


def is_hub_id(name: str) -> bool:
    """Whether a name may be a Hugging Face id; beside a folder that is there it is a path, mistyped."""
    return bool(_HUB_ID.fullmatch(name)) and not path_of(name).parent.is_dir()


def load_folder(folder: Path, task: Task, *, device: torch.device, dtype: torch.dtype) -> Loaded:
    """``load_model`` of a folder that is there."""
    check_regular(folder)
    try:
        if (folder / OPEN_CLIP).is_file():
            _only(folder, "open_clip", task, ("vision", "image-text"))
            both = load_openclip(folder, device=device, dtype=dtype)
            if task == "image-text":
                return both
            return Loaded(both.model.visual, Processor(images=both.processor.images), both.family, both.fingerprint)
        if not (folder / "config.json").is_file():
            raise OptionError(f"{{model}}: {folder} is no folder of a model: it holds no config.json or {OPEN_CLIP}.")
        config = read_json(folder / "config.json")
        if "architecture" in config and "model_type" not in config:
            _only(folder, "timm", task, ("vision", "classifier"))
            return load_timm(folder, config, device=device, dtype=dtype)
        if config.get("model_type") == CONVOLUTIONAL:
            _only(folder, "a convolutional classifier", task, ("classifier",))
            return load_convolutional(folder, device=device, dtype=dtype)
        if task == "text" and (own := load_bert(folder, config, device=device, dtype=dtype)):
            return own
        return _transformers(folder, task, device, dtype)
    except AttnError:
        raise
    except Exception as error:  # a damaged configuration fails anywhere in a package, each time otherwise
        raise OptionError(f"{{model}}: {folder} cannot be loaded as a model ({reason_of(error)}).") from error


def _transformers(folder: Path, task: Task, device: torch.device, dtype: torch.dtype) -> Loaded:
    config = hf.load_config(folder)
    family = config.model_type
    if task == "classifier" and not _classifies(config):
        task = "vision"
    vision = hasattr(config, "image_size") or hasattr(config, "vision_config")
    towers = hasattr(config, "vision_config") and hasattr(config, "text_config") and family in _TOWERS
    fits = {
        "text": not vision, "vision": vision and (family in _TOWERS or not hasattr(config, "text_config")),
        "image-text": towers, "vision-language": family in VISUAL,
    }.get(task, hf.has_class(config, _CLASSES[task]))  # fmt: skip
    if not fits:
        named = (getattr(config, "architectures", None) or [family])[0]
        known = f" Known are {', '.join(VISUAL)}." if task == "vision-language" else ""
        raise OptionError(f"{{model}}: {folder} is {family} ({named}), which is no model for {task}.{known}")
    if task == "vision-language":
        return _vision_language(folder, config, device, dtype)
    if task == "text":
        model = hf.load_text_model(folder, config, dtype, device)
    else:
        if task == "causal":
            check_fits(folder, weight_files(folder), config, dtype, device)
        name = _TOWERS.get(family, _CLASSES[task]) if task == "vision" else _CLASSES[task]
        model = hf.load_class(folder, name, dtype, device)
    tokeniser = hf.load_tokeniser(folder) if task in ("text", "causal", "image-text") else None
    images = None
    if task in ("vision", "classifier", "image-text"):
        images = ImagePreparation.of_transformers(read_json(folder / _PREPROCESSOR))
        _interpolate(model, images)
    labels = tuple(str(config.id2label[number]) for number in sorted(config.id2label)) if task == "classifier" else ()
    return Loaded(model, Processor(tokeniser, images), family, fingerprint(weight_files(folder)), labels)


def vision_task(name: str, *, allow_download: bool = False) -> Task:
    """Which task a model that looks at images is for: ``"vision-language"`` or ``"classifier"``.

    Parameters
    ----------
    name, allow_download
        See ``load_model``. Nothing but the configuration is read.

    Raises
    ------
    UsageError
        If there is no such model.
    """
    if name in EMBEDDED and EMBEDDED[name].reader:
        return "classifier"
    if name in EMBEDDED:
        folder = EMBEDDED[name].path()
    else:
        folder = find_folder(name, _possible(name, "vision-language", "classifier"), allow_download=allow_download)
    path = folder / "config.json"
    family = read_json(path).get("model_type") if path.is_file() else None
    return "vision-language" if family in VISUAL else "classifier"


def _interpolate(model: Any, images: ImagePreparation) -> None:
    """Let a tower with a table of positions stretch it where its folder prepares pictures of another size."""
    own = getattr(model.config, "image_size", None)
    if isinstance(own, int) and images.size != (own, own) and _STRETCH in inspect.signature(model.forward).parameters:
        model.register_forward_pre_hook(lambda _, args, kwargs: (args, {_STRETCH: True} | kwargs), with_kwargs=True)


def _classifies(config: Any) -> bool:
    """Its weights have the head of a classifier."""
    return any("ForImageClassification" in name for name in getattr(config, "architectures", None) or ())


def _vision_language(folder: Path, config: Any, device: torch.device, dtype: torch.dtype) -> Loaded:
    """The small parts first: what is wrong with them is known before gigabytes are read."""
    joint = hf.load_processor(folder, config)
    frame = hf.frame_pixels(folder) if config.model_type in FRAMES else None
    files = weight_files(folder)
    check_fits(folder, files, config, dtype, device)
    model = hf.load_class(folder, _CLASSES["vision-language"], dtype, device)
    return Loaded(model, Processor(joint=joint, frame_pixels=frame), config.model_type, fingerprint(files))


def _embedded(name: str, task: Task, device: torch.device, dtype: torch.dtype) -> Loaded:
    packaged = EMBEDDED[name]
    path = packaged.path()
    if not packaged.reader:
        return load_folder(path, task, device=device, dtype=dtype)
    _only(path, packaged.what, task, ("vision", "classifier"))
    model: Any = packaged.read().to(device, dtype)
    side = packaged.image_size or model.config.image_size
    images = ImagePreparation((side, side), *IMAGENET)
    return Loaded(model, Processor(images=images), model.config.model_type, fingerprint([path]))


def _only(folder: Path, family: str, task: str, tasks: tuple[str, ...]) -> None:
    if task not in tasks:
        raise OptionError(f"{{model}}: {folder} is {family}, which is no model for {task}.")


def _possible(name: str, *tasks: Task) -> str:
    """What could have been meant, and what can be given for one of the tasks."""
    known = [model.name for model in EMBEDDED.values() if set(model.tasks) & set(tasks)]
    what = ", ".join((*known, "a folder of a model"))
    return f"{did_you_mean(name, known)} Give {what}, or a Hugging Face id (ORG/NAME).".strip()
