"""Training: synthetic or real photos with depth -> a checkpoint folder. Serving never imports it."""
