"""The worker, beside a ComfyUI: takes a job's input, drives the engine, returns the outputs."""
