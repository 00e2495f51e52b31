"""A trained model as a diffusers pipeline, for the Hub and for programs that know diffusers."""
