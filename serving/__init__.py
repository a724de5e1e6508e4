"""The API: takes requests over HTTP, puts them on the queue and answers with what the workers reply."""
