"""Bytes on a connection to requests, and responses to bytes: HTTP/1.1 and gRPC, bodies and their encodings."""
