"""What is around the methods: where a model's visual tokens are, and how they are taken out while it runs."""
