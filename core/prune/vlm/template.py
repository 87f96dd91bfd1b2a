"""The text around a question: the model's own chat template, or the plain form of its class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...options import OptionError
from ...text import reason_of

_CHATML = "<|im_start|>user\n{pictures}{prompt}<|im_end|>\n<|im_start|>assistant\n"
_PLAIN: Mapping[str, tuple[str, str]] = {
    "llava": ("USER: {pictures}{prompt} ASSISTANT:", "{token}\n"),
    "llava_next": ("USER: {pictures}{prompt} ASSISTANT:", "{token}\n"),
    "qwen2_vl": (_CHATML, "<|vision_start|>{token}<|vision_end|>"),
    "qwen2_5_vl": (_CHATML, "<|vision_start|>{token}<|vision_end|>"),
    "idefics3": ("<|begin_of_text|>User:{pictures}{prompt}<end_of_utterance>\nAssistant:", "{token}"),
    "smolvlm": ("<|im_start|>User:{pictures}{prompt}<end_of_utterance>\nAssistant:", "{token}"),
    "internvl": (_CHATML, "{token}\n"),
}
"""``model_type`` -> the form of a prompt, and of each picture in it, as the class was published with."""


def templated(family: str, processor: Any, tokens: Sequence[str], prompt: str) -> tuple[str, list[str]]:
    """A question with the marks of its pictures in front, as text for a processor.

    Parameters
    ----------
    family : str
        ``model_type``.
    processor
        Of transformers.
    tokens : sequence of str
        Of each picture or sequence of pictures, in order, what stands for it: the processor's ``image_token`` or
        ``video_token``.
    prompt : str

    Returns
    -------
    text, and what to warn of: that a form was guessed.

    Raises
    ------
    UsageError
        If the prompt holds such a token itself, or the chat template cannot be used.
    """
    marks = [mark for mark in (processor.image_token, getattr(processor, "video_token", None)) if mark]
    for mark in marks:
        if mark in prompt:
            raise OptionError(
                f"{{prompt}}: {mark} stands for a picture, and the pictures are put in front. Leave it out."
            )
    template = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    if template is None:
        whole, each = _PLAIN[family]
        text = whole.format(pictures="".join(each.format(token=token) for token in tokens), prompt=prompt)
        shown = whole.format(pictures="", prompt="…")
        return text, [f"the model's folder has no chat template: asked as {shown!r}, the form of {family}"]
    kinds = [{"type": "image" if token == processor.image_token else "video"} for token in tokens]
    messages = [{"role": "user", "content": [*kinds, {"type": "text", "text": prompt}]}]
    try:
        text = processor.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # of any kind: a template is code of its author's
        raise OptionError(f"{{model}}: its chat template cannot be used ({reason_of(error)}).") from None
    if prompt.strip() not in text or [text.count(mark) for mark in marks] != [
        list(tokens).count(mark) for mark in marks
    ]:
        raise OptionError("{model}: its chat template leaves out the question or a picture; it is one for texts alone.")
    return text, []
