"""Pictures with questions: what methods are scored on, and what their calibrations learn from."""
