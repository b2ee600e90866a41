"""Workflow documents: everything that can be known without running them. No network here."""
