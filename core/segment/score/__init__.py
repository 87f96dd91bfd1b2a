"""What vessels measure, and how good a segmentation is."""
