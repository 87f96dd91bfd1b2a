"""What the recipes of pruned ViTs share: pictures with classes, the plain ViT, and measuring side by side."""
