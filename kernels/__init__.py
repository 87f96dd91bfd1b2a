"""Triton kernels, one file per operator. Nothing here is imported until a kernel is wanted; this file imports nothing.

How a kernel is added
---------------------
1. *The operator's file*, ``kernels/NAME.py``: a docstring with paper and specification section; the ``@triton.jit``
   functions (``NAME_forward_kernel``, ``NAME_backward_kernel``); a ``torch.autograd.Function`` where it trains; one
   public function last, which checks shapes, allocates and launches. Accumulators are float32, offsets of whole
   images or heads 64-bit, and a float32 ``tl.dot`` takes ``input_precision="ieee"``. Gradients are written in gather
   form, without atomics, so that repeating a call gives the same bits.
2. *Its registration as data*: the file ends with ``KERNELS``, a tuple of ``registry.Kernel``: name, function, and the
   ``Variant`` list (argument types, constants, warps, stages) that the wrapper can ask for. Put ``"NAME"`` into
   ``registry.MODULES``. A variant that is meant for some chips only (another tile size on sm_80 than on sm_90) names
   them in ``targets``.
3. *Tests*. ``tests/kernels/test_aot.py`` runs over the registry and needs no change: each variant is compiled for
   sm_80, sm_90 and gfx942 and must neither spill nor ask for more shared memory than a block may have. Values are
   tested in ``tests/kernels/test_NAME.py`` (mark ``interpret``, fixture ``device``) against the operator's reference
   in float64, outputs and every gradient.

The interpreter replaces ``triton.jit`` when a kernel's module is imported, the compiler needs it as it is: the two
suites are two processes, ``TRITON_INTERPRET=1 pytest tests/kernels -m interpret`` and
``pytest tests/kernels -m aot``. Where Python 3.12 is at hand, ``tests/kernels/sanitise.sh`` runs the first suite on the
compiler's own code, bfloat16 included, and also finds races and overruns.

What wrappers share is ``launch``: the refusal of tensors of the CPU, and ``operator``, which makes a wrapper one
of ``torch.library``, for ``torch.compile`` and ``torch.export``.
"""
