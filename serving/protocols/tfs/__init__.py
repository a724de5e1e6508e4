"""TensorFlow Serving's protocol, over REST and over gRPC."""
