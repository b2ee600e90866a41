"""Bytes: files written safely, pictures decoded."""
