"""Load tests of any server that speaks TensorFlow Serving's protocols or Open Inference: `millrace load`.

targets ──► payloads ──► requests, with their right answers        what is asked
schedules ──► pacing ──► users (Locust) ──► connections            when, and by whom
tallies (histograms, counts) ──► results ──► reports               what came of it
"""
