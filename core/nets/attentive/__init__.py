"""The BiLSTM classifiers of texts with attention, whose scores can be perturbed; methods/attention-at.md, section 3."""
