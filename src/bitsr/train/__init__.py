"""Training: recipe (TOML) -> data -> net -> loop -> checkpoint -> pack. Needs the ``train`` extra."""
