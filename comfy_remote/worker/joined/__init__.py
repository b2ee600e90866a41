"""A worker that joins a gateway on another machine: it asks for jobs, and delivers results."""
