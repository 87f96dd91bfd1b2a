"""Options name choices without importing torch; here they meet the code that takes them."""

import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from attn.core.catalogue import registry
from attn.core.fit.precision import TYPES
from attn.core.options import stated
from attn.core.retrieve.gadms.gass import GASSOptions
from attn.core.retrieve.gadms.masking import Masking
from attn.core.retrieve.priorclip.losses import Targets
from attn.core.retrieve.priorclip.vit import GATES
from attn.core.segment.fsgnet.trunks import TRUNKS
from attn.core.train.fsgnet.augment import AUGMENTATIONS
from attn.core.train.fsgnet.options import FSGNetOptions
from attn.core.train.ga_dms.options import GADMSOptions
from attn.core.train.priorclip.options import PriorCLIPOptions


def choices(options, field):
    return {option.field: option.choices for option in stated(options)}[field]


@pytest.mark.parametrize(
    ("options", "field", "known"),
    [
        (FSGNetOptions, "trunk", TRUNKS),
        (FSGNetOptions, "augment", AUGMENTATIONS),
        (FSGNetOptions, "amp", TYPES),
        (PriorCLIPOptions, "gate", GATES),
        (PriorCLIPOptions, "affiliation_targets", get_args(Targets)),
        (GADMSOptions, "masking", get_args(Masking)),
        *((GADMSOptions, f"gass_{name}", None) for name in ("norm", "heads", "scale")),
    ],
)
def test_choices_are_what_the_code_takes(options, field, known):
    if known is None:
        known = get_args(get_type_hints(GASSOptions)[field.removeprefix("gass_")])
    assert set(choices(options, field)) == set(known)


def test_defaults_are_those_of_the_architectures():
    from attn.core.retrieve.priorclip.model import PriorCLIPArchitecture
    from attn.core.segment.fsgnet.checkpoint import FSGNetArchitecture

    assert FSGNetOptions(Path("run")).architecture() == FSGNetArchitecture()
    assert PriorCLIPOptions(Path("run")).architecture() == PriorCLIPArchitecture()


def test_stating_all_recipes_imports_no_torch():
    code = "import sys; from attn.cli.train import verbs; print(len(verbs()), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(registry("train"))), "False"]
