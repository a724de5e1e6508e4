"""SavedModels, by TensorFlow, as TensorFlow Serving loads them."""
