"""How good a ranking is: metrics, runs and judgements."""
