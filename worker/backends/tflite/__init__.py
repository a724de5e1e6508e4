"""TFLite files, by LiteRT."""
