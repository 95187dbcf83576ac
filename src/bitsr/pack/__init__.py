"""From a trained net to a model file."""
