"""What a gateway shows of itself: a page with what runs and what waits, metrics, a log of its jobs.

`shown.Shown` watches the queue (`queue_events`) and reads its state (`state`); `routes` answers.
"""
