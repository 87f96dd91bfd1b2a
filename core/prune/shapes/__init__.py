"""Drawn scenes with questions about them: what the embedded vision-language model is trained and judged on.

Source: methods/prune-evaluation.md, section 4. A scene is drawn from a generator of NumPy, so that a seed gives the
same pictures, boxes, questions and answers everywhere.
"""
