"""What a command came to: the model of a report, its writers, its pictures."""
