"""What nets are made of: operations, binarizers, convolutions."""
