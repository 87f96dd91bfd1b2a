"""``phantom:KIND`` among the inputs of a run: drawn into a hidden folder, which goes when the run ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ...errors import UsageError
from ...io.atomic import place_fault, scratch_folder
from ...io.walk import Input, Schemes, names_file
from ...options import OptionError
from .files import write_phantom
from .names import SCHEME, parse_phantom


@contextmanager
def phantom_inputs(output: str | Path | None, dose: float | None) -> Iterator[Schemes]:
    """Who makes phantoms for `attn.core.io.expand_inputs`, within the block.

    Parameters
    ----------
    output : str, Path or None
        Where the run's results go. Phantoms lie there or above, as every worker of a cluster sees that place.
    dose : float or None
        What is simulated. A phantom has no noise, so without it there is nothing to do.

    Yields
    ------
    Schemes. They raise ``UsageError`` for a name that stands for no phantom, without a dose, or where nothing can be
    written.
    """
    with ExitStack() as stack:
        folders: list[Path] = []

        def draw(text: str) -> list[Input]:
            name = parse_phantom(text)
            if dose is None:
                raise OptionError(
                    f"{text} has no noise: say with {{simulate_dose}} at which fraction of the dose it is scanned."
                )
            if not folders:
                folders.append(stack.enter_context(scratch_folder(_place(output))))
            paths = write_phantom(name, folders[0])
            series = name.slices is not None
            return [Input(path, f"{text}/{z}" if series else text, example=True) for z, path in enumerate(paths, 1)]

        yield {SCHEME: draw}


def _place(output: str | Path | None) -> Path:
    """The folder of the results, or the nearest above it that exists."""
    target = Path("any") if output is None else Path(output) if names_file(output) else Path(output, "any")
    if fault := place_fault(target):
        raise UsageError(f"{'the current directory' if output is None else f'-o {output}'}: {fault}.")
    place = target.absolute().parent
    while not place.exists():
        place = place.parent
    return place
