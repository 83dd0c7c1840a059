"""The app as a service: configuration, limits, logs, metrics and its end. Knows no pixels, no widgets."""
