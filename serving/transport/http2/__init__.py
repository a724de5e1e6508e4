"""HTTP/2: frames and streams, and what REST requests and gRPC calls are on them."""
