"""Both protocols over gRPC, on the event loop and the service that answer HTTP."""
