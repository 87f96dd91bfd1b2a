"""What can never work is refused before it is tried: options before any file is read, a slice that a file has not."""

from __future__ import annotations

from ..device import pick_dtype
from ..errors import InputError
from ..io import GreyImage
from ..io.atomic import check_place
from ..io.image import check_unit
from ..io.kinds import split_key
from ..io.pixels import check_fill
from ..options import OptionError
from . import METHODS
from .options import DenoiseOptions, check_read
from .pipeline import slice_to_fit
from .window import parse_window


def check_options(options: DenoiseOptions) -> None:
    """Refuse before any file is read what can never work. Raises ``UsageError``."""
    METHODS[options.method].resolve()
    parse_window(options.window)
    parse_window(options.display, "display")
    if options.display != "auto" and not (options.figure or options.compare):
        raise OptionError("{display} is for pictures: add {figure}, {compare} or an HTML report.")
    check_fill(options.fill)
    check_unit(options.unit)
    dtype = str(pick_dtype(options.dtype)).removeprefix("torch.")
    if dtype not in ("float32", "float64"):
        raise OptionError(
            f"{{dtype}} {dtype}: the range sigma gets too small for half precision. Use float32 or float64."
        )
    if options.fit_on not in ("each", "first", "middle"):
        slice_to_fit(options.fit_on, 1 << 30)  # an integer at least; whether the slice exists is known later
    check_read(options)
    if options.simulate_dose is not None:
        if not 0 < options.simulate_dose <= 1:
            raise OptionError(
                f"{{simulate_dose}}: {options.simulate_dose:g} is no fraction of a dose (0 < fraction <= 1)."
            )
        if options.reference is not None:
            raise OptionError("{simulate_dose}: the input itself is the reference then; leave {reference} out.")
    if options.save_filter is not None:
        check_place("save_filter", options.save_filter, (".safetensors",))
    if options.reference is not None and not split_key(options.reference)[0].exists():
        raise OptionError(f"{{reference}}: {options.reference} does not exist.")


def check_slice(image: GreyImage, options: DenoiseOptions) -> None:
    """Raise ``InputError`` where a file has no slice of the index to fit on: its own fault, others of a batch may."""
    try:
        slice_to_fit(options.fit_on, len(image.pixels))
    except OptionError:
        count = len(image.pixels)
        has = f"has {count} slice{'s' * (count > 1)}, counted from 0, and none of index {options.fit_on} to fit on"
        raise InputError(image.path, has, "Name another index, or first, middle or each") from None
