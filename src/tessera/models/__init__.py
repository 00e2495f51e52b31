"""The two networks of the paper: DiT-I and CAD-I (a RIN), and the parts they share."""
