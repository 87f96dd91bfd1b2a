"""Remote-sensing retrieval guided by a scene prior: PIR and PriorCLIP. Specification: methods/priorclip.md."""
