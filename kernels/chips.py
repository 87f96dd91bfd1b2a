"""What the makers of the chips publish: limits that decide whether a kernel can run, and ceilings no kernel passes.

Imports nothing. Limits: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; AMD CDNA 2 and
CDNA 3 instruction set guides. Ceilings: data sheets of the product named, dense (no structured sparsity), boost clock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chip:
    """One compile target and the product whose data sheet gives its ceilings.

    Parameters
    ----------
    product : str
    block_shared : int, bytes
        Shared memory that one block may use.
    shared : int, bytes
        Of a multiprocessor (compute unit), all its blocks together.
    overhead : int, bytes
        Shared memory that the system takes for each block.
    warps, blocks : int
        Resident on a multiprocessor at most.
    matrix_tflops, fp32_tflops : float
        Matrix products of 16-bit types with 32-bit sums, and fp32 arithmetic without matrix units (with them on AMD,
        whose matrix units take fp32 as it is).
    bandwidth_gbs : float
        Memory, GB/s.
    """

    product: str
    block_shared: int
    shared: int
    overhead: int
    warps: int
    blocks: int
    matrix_tflops: float
    fp32_tflops: float
    bandwidth_gbs: float

    def ceiling(self, itemsize: int) -> float:
        """Operations per second for products of elements of ``itemsize`` bytes."""
        return 1e12 * (self.matrix_tflops if itemsize == 2 else self.fp32_tflops)


CHIPS = {
    "sm_80": Chip("A100 SXM 80 GB", 166_912, 167_936, 1024, 64, 32, 312.0, 19.5, 2039.0),
    "sm_86": Chip("GeForce RTX 3090", 101_376, 102_400, 1024, 48, 16, 71.0, 35.6, 936.0),
    "sm_89": Chip("GeForce RTX 4090", 101_376, 102_400, 1024, 48, 24, 165.2, 82.6, 1008.0),
    "sm_90": Chip("H100 SXM", 232_448, 233_472, 1024, 64, 32, 989.4, 66.9, 3350.0),
    "sm_100": Chip("B200", 232_448, 233_472, 1024, 64, 32, 2250.0, 75.0, 8000.0),
    "sm_120": Chip("GeForce RTX 5090", 101_376, 102_400, 1024, 48, 24, 209.5, 104.8, 1792.0),
    "gfx90a": Chip("Instinct MI250X, one die", 65_536, 65_536, 0, 32, 32, 191.5, 47.9, 1638.4),
    "gfx942": Chip("Instinct MI300X", 65_536, 65_536, 0, 32, 32, 1307.4, 163.4, 5300.0),
}
_REGISTERS = 65_536  # of a multiprocessor of NVIDIA
_GRAIN = 256  # a warp's registers are handed out in so many
_AMD_REGISTERS = 512  # of a lane; a wave's are handed out in eights
_SIMDS, _AMD_GRAIN, _SIMD_WAVES = 4, 8, 8


def occupancy(target: str, registers: int, shared: int, num_warps: int) -> float:
    """Share of the warps that a multiprocessor can hold, as registers, shared memory and slots for blocks bound it.

    Parameters
    ----------
    target : str
        One of ``CHIPS``.
    registers : int
        Per thread; 0 where even one block has no room.
    shared : int, bytes
        Of a block.
    num_warps : int
        Of a block.
    """
    chip = CHIPS[target]
    if target.startswith("sm_"):
        warp = -(-registers * 32 // _GRAIN) * _GRAIN
        by_registers = _REGISTERS // max(warp, 1) // num_warps
    else:
        waves = min(_SIMD_WAVES, _AMD_REGISTERS // (-(-max(registers, 1) // _AMD_GRAIN) * _AMD_GRAIN))
        by_registers = waves * _SIMDS // num_warps
    by_shared = chip.shared // (shared + chip.overhead) if shared + chip.overhead else chip.blocks
    return num_warps * min(chip.blocks, chip.warps // num_warps, by_registers, by_shared) / chip.warps
