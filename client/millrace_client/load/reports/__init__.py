"""What is made of the documents of runs: text, Markdown, CSV, JUnit, and a page."""
